"""DreamerLearner: one update of model, actor and critic from a batch of real sequences."""

import torch
from torch import Tensor, nn

from mbrl_gym.agents.actor_critic import ActorCritic, Dream
from mbrl_gym.agents.model_learner import ModelLearner, OptimizerConfig, learned_rows, model_terms
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.models.rssm import RSSM, RSSMState
from mbrl_gym.nets.precision import mixed_precision


class DreamerLearner(ModelLearner):
    """Learns a model from sequences, and behaviour from what the model imagines from all of their states.

    Source: danijar/dreamerv3 ``dreamerv3/agent.py`` (train, loss) at e3f0224: one backward pass over everything, in
    which behaviour's own losses stop at the features and the critic's loss on real sequences reaches the model.

    Args:
        model: the world model.
        behavior: actor and critic.
        config: of the optimiser.
    """

    def __init__(self, model: RSSM, behavior: ActorCritic, config: OptimizerConfig) -> None:
        self.behavior = behavior
        super().__init__(model, config)

    def _trained(self) -> dict[str, list[nn.Parameter]]:
        actor, critic = list(self.behavior.actor.parameters()), list(self.behavior.critic.parameters())
        return {**super()._trained(), "actor": actor, "critic": critic}

    def _learn(self, batch: SequenceBatch, start: RSSMState | None) -> tuple[RSSMState, dict[str, Tensor]]:
        loss = self.model.loss(batch, start)
        states, rows = learned_rows(loss, start)
        width = states.deter.shape[:2].numel()
        # Two contexts: torch before 2.11 would keep the actor's weights as rounded without a gradient.
        with mixed_precision(self.model.device, width):
            dream = self._imagine(states.detach())
        with mixed_precision(self.model.device, width):
            behavior = self.behavior.imagination_loss(dream)
            replay = self._replay_loss(batch, states, rows, behavior.returns)
        total = loss.total + behavior.actor + behavior.critic
        terms = model_terms(loss)
        terms.update((f"train/{name}", value) for name, value in behavior.terms.items())
        terms["dream/reward_mean"] = dream.reward[:, 1:].detach().mean()  # the first one is real
        if replay is not None:
            total = total + self.behavior.config.replay_value * replay
            terms["train/replay_critic_loss"] = replay.detach()
        self._step(total)
        self.behavior.follow()
        return states.detach(), terms

    def _imagine(self, states: RSSMState) -> Dream:
        """Return rollouts from all states [B, T]; with a gradient to the actions where the actor learns by it."""
        start, behavior, model = states.map(lambda x: x.flatten(0, 1)), self.behavior, self.model
        through = behavior.config.reinforce < 1
        if not through:
            with torch.no_grad():
                return self._dream(start)
        # No gradient of behaviour may move the model.
        learned = [p for p in model.parameters() if p.requires_grad]
        for p in learned:
            p.requires_grad_(False)
        try:
            return self._dream(start)
        finally:
            for p in learned:
                p.requires_grad_(True)

    def _dream(self, start: RSSMState) -> Dream:
        behavior, products = self.behavior, []

        def act(features: Tensor) -> Tensor:
            products.append(behavior.actor.products(features.detach()))
            return behavior.policy_onward(products[-1]).sample()

        features, action = self.model.rollout(start, act, behavior.config.horizon)
        reward, continuation = self.model.reward(features), self.model.continuation(features)
        return Dream(features, action, reward, continuation, torch.stack([x.detach() for x in products], 1))

    def _replay_loss(self, batch: SequenceBatch, states: RSSMState, rows: slice, returns: Tensor) -> Tensor | None:
        """Return the critic's loss on real rows, whose returns rest on those of imagination [B * T, H]."""
        if not self.behavior.config.replay_value:
            return None
        is_last = batch.terminated | batch.truncated
        is_last[:, :-1] |= batch.is_first[:, 1:]  # an episode that was cut ends without a flag
        return self.behavior.replay_loss(
            self.model.features(states),
            batch.reward[:, rows],
            batch.terminated[:, rows],
            is_last[:, rows],
            returns[:, 0].view(states.deter.shape[:2]),
        )
