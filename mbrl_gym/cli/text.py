"""Text for a terminal or a file."""

from collections.abc import Collection, Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Return aligned columns under a ruled head; the columns ``right`` are set flush right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def spread(mean: float, std: float) -> str:
    """Return mean and standard deviation."""
    return f"{mean:.0f} ± {std:.0f}" if abs(mean) >= 100 else f"{mean:.1f} ± {std:.1f}"
