"""The models. Each satisfies `mbrl_gym.model.WorldModel`; none imports another."""
