"""The command `mbrl-gym`; see `mbrl_gym.cli.main`."""
