"""Network pieces that models share."""
