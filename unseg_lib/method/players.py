"""The two players of the bilevel game, each with its own optimiser."""

import torch

from unseg_lib.errors import pick
from unseg_lib.method.config import OPTIMISERS, BilevelConfig
from unseg_lib.method.generator import Generator
from unseg_lib.method.sam import LAYOUTS
from unseg_lib.method.surrogate import build_surrogate
from unseg_lib.method.weights import load_mae, load_sam
from unseg_lib.seeds import seed_for


class Game:
    """Both players with their optimisers, on their devices: what a checkpoint holds."""

    def __init__(self, config: BilevelConfig, fabric):
        with torch.random.fork_rng():
            torch.manual_seed(seed_for(config.seed, "weights"))  # construction draws from the global generator
            layout = pick(LAYOUTS, config.layout, "layout")
            options = {name: getattr(config, name) for name in ("mean_free", "mean_of", "logit_scale")}
            generator = Generator(layout, **options)
            surrogate = build_surrogate(config.surrogate, layout, config.surrogate_size)
        if config.sam_weights:
            load_sam(generator, config.sam_weights)
            generator.train_only_noise_head()
        if config.mae_weights:
            load_mae(surrogate.image_encoder, config.mae_weights)
        generator.freeze_unused()
        # two optimisers: the released code's single Adam keeps moving the idle player, see `drift`
        new = OPTIMISERS[config.optimiser]
        self.optimisers = {
            "generator": new([p for p in generator.parameters() if p.requires_grad], lr=config.generator_lr),
            "surrogate": new(surrogate.parameters(), lr=config.surrogate_lr),
        }
        self.seen_by_surrogate = {"size": surrogate.size, "grid": surrogate.grid}
        self.players = {"generator": generator, "surrogate": surrogate}
        for name, module in self.players.items():
            self.players[name], self.optimisers[name] = fabric.setup(module, self.optimisers[name])

    def bare(self, name: str) -> torch.nn.Module:
        """A player without Fabric's and DDP's wrappers."""
        module = self.players[name].module
        return getattr(module, "module", module)

    def drift(self, name: str) -> None:
        """Step a waiting player on gradients of zero: what moves it is the momentum of its last turn."""
        optimiser = self.optimisers[name]
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                if parameter in optimiser.state:  # before its first turn it has no momentum, and stays
                    parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        optimiser.zero_grad()

    def state(self) -> dict:
        players = {name: self.bare(name).state_dict() for name in self.players}
        return {"players": players, "optimisers": {k: v.state_dict() for k, v in self.optimisers.items()}}

    def load_state(self, state: dict) -> None:
        for name in self.players:
            self.bare(name).load_state_dict(state["players"][name])
            self.optimisers[name].load_state_dict(state["optimisers"][name])

    def set_learning_rates(self, factor: float, config: BilevelConfig) -> None:
        for name, lr in (("generator", config.generator_lr), ("surrogate", config.surrogate_lr)):
            for group in self.optimisers[name].param_groups:
                group["lr"] = lr * factor
