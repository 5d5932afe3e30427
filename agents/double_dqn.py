"""DoubleDQN: SB3's DQN with double Q-learning, for value targets that imagined data does not inflate."""

import torch
from stable_baselines3 import DQN
from torch.nn.functional import smooth_l1_loss


class DoubleDQN(DQN):
    """SB3's DQN whose targets take the online network's choice of action and the target network's value of it.

    The largest of several uncertain values is an overestimate, and bootstrapping feeds it on: worst where the replay
    holds nothing, which is where a policy then goes. Double Q-learning parts the choice from the value. Arguments,
    policies and files are DQN's; what it saves loads as a stock ``DQN``.

    Source: van Hasselt et al. 2016, equation 4.
    """

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Take ``gradient_steps`` on batches of ``batch_size`` transitions from the replay buffer."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = [self._update(batch_size) for _ in range(gradient_steps)]
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", float(torch.stack(losses).mean()))  # one wait for the device

    def _update(self, batch_size: int) -> torch.Tensor:
        """Return the loss [] before one gradient step."""
        assert self.replay_buffer is not None
        batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
        discount = self.gamma if batch.discounts is None else batch.discounts  # n steps: the buffer's
        with torch.no_grad():
            chosen = self.q_net(batch.next_observations).argmax(1, keepdim=True)
            value = self.q_net_target(batch.next_observations).gather(1, chosen)
            target = batch.rewards + (1 - batch.dones) * discount * value
        found = self.q_net(batch.observations).gather(1, batch.actions.long())
        loss = smooth_l1_loss(found, target)
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        self.policy.optimizer.step()
        return loss.detach()
