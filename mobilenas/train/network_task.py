"""The stand-alone training of one network, as a task of the trainer."""

from typing import Any

from mobilenas.nn import AnyNetwork
from mobilenas.nn.saved import save_network
from mobilenas.train.calibrate import count_right
from mobilenas.train.networks import NetworkRun
from mobilenas.train.recipe import Objective
from mobilenas.train.trainer import Trainer


class NetworkTask:
    """Trains the network of a run, and saves it whenever it is the best on the validation images.

    steps_per_epoch: of its training batches.
    """

    title = "train"

    def __init__(self, run: NetworkRun, objective: Objective, steps_per_epoch: int) -> None:
        config = run.settings.config
        self.run = run
        self.objective = objective
        self.images_per_step = config.batch_size
        self.steps_per_epoch = steps_per_epoch
        self.steps = max(1, round(config.epochs * steps_per_epoch))
        self.validate_every = max(1, round(config.validate_every * steps_per_epoch))
        self.best_accuracy = -1.0  # on the validation images
        self.best_step = 0
        self.last_accuracy = -1.0

    def step(self, trainer: Trainer, n: int) -> None:
        """The network on the batch of step n."""
        images, target = self.objective.mix(*trainer.train(n), n)
        with trainer.autocast():
            taught = self.objective.taught(images)
        losses = (self.objective.loss(trainer.forward(x), target, taught) for x in [images])
        trainer.step(n, losses, [f"arch {self.run.arch}"])

    def position(self, n: int) -> float:
        """All steps are of one size."""
        return n

    def row(self, n: int) -> dict[str, Any]:
        """Epochs so far."""
        return {"epoch": n / self.steps_per_epoch}

    def validate(self, trainer: Trainer, n: int) -> dict[str, Any]:
        """Measure the kept network on the validation images; save it if it is the best so far."""
        images, processes = self.run.images, trainer.processes
        everything = images.splits.validate
        mine = everything[processes.rank :: processes.world]
        batches = images.evaluation(images.data.train, trainer.device, mine)
        right, _ = count_right(trainer.kept, batches)
        self.last_accuracy = processes.total(right) / len(everything)
        if self.last_accuracy > self.best_accuracy:
            self.best_accuracy, self.best_step = self.last_accuracy, n
            if processes.is_main:
                info = self.run.info(self.best_accuracy, is_best=True)
                save_network(_network(trainer), self.run.network, info)
        return {"accuracy": self.last_accuracy}

    def save_last(self, trainer: Trainer) -> None:
        """Save the network of the last step."""
        info = self.run.info(self.last_accuracy, is_best=False)
        save_network(_network(trainer), self.run.last, info)

    def note(self) -> str:
        """The best accuracy."""
        return f", best {100 * self.best_accuracy:.2f} %" if self.best_step else ""

    def state(self) -> dict[str, Any]:
        """Best and last accuracy."""
        names = ("best_accuracy", "best_step", "last_accuracy")
        return {name: getattr(self, name) for name in names}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.best_accuracy, self.best_step = state["best_accuracy"], state["best_step"]
        self.last_accuracy = state["last_accuracy"]


def _network(trainer: Trainer) -> AnyNetwork:
    assert isinstance(trainer.kept, AnyNetwork)
    return trainer.kept
