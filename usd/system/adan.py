"""Adan: momentum of the gradients and of their differences (Xie et al., arXiv 2208.06677, algorithm 1)."""

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor

from usd.core.errors import ConfigError


class Adan(torch.optim.Optimizer):
    """With gradients g and their differences d, as factors of the previous averages (1 - the paper's betas) b1, b2, b3.

    m, v and n are the averages of g, d and (g + b2 d)^2, corrected for their start at zero as Adam's are; a step is
    x <- (x - lr (m + b2 v) / (sqrt(n) + eps)) / (1 + lr weight_decay). ``max_grad_norm`` limits the norm of all
    gradients together; 0: nothing does.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
    ) -> None:
        if bad := [beta for beta in betas if not 0 <= beta < 1]:
            raise ConfigError(f"betas: {bad[0]:g} is out of range; expected >= 0 and < 1")
        self.max_grad_norm = max_grad_norm
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float | Tensor] | None = None) -> float | Tensor | None:
        """Take a step; return what ``closure``, which computes the gradients anew, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        weights = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.max_grad_norm > 0 and weights:
            torch.nn.utils.clip_grad_norm_(weights, self.max_grad_norm)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group["lr"], group["betas"], group["eps"])
                    p.div_(1 + group["lr"] * group["weight_decay"])
        return loss

    def _update(self, p: Tensor, g: Tensor, lr: float, betas: tuple[float, float, float], eps: float) -> None:
        """Move a weight by its gradient, without decay."""
        state = self.state[p]
        if not state:
            state.update({name: torch.zeros_like(p) for name in ("mean", "mean_difference", "mean_square")})
            # the first gradient has none before it: no difference
            state.update({"step": 0, "previous": g.clone()})
        state["step"] += 1
        d = g - state["previous"]
        values = {"mean": g, "mean_difference": d, "mean_square": (g + betas[1] * d).square()}
        m, v, n = (
            state[name].lerp_(value, 1 - beta) / (1 - beta ** state["step"])
            for beta, (name, value) in zip(betas, values.items(), strict=True)
        )
        p.sub_(lr * (m + betas[1] * v) / (n.sqrt() + eps))
        state["previous"].copy_(g)
