"""Knowledge distillation (Hinton et al. 2015): the softened predictions of a teacher as targets."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from mobilenas.base.errors import BadInput, one_line
from mobilenas.cost import CostModel
from mobilenas.nn import Supernet
from mobilenas.nn.saved import Channels, load_network
from mobilenas.runs import RunFolder
from mobilenas.train.calibrate import inherit
from mobilenas.train.checkpoint import fingerprint
from mobilenas.train.config import TrainingConfig


class Teacher(nn.Module):
    """A network with fixed weights that takes images as the student does.

    Images come normalised by the student's mean and std; where the teacher's own differ they are
    normalised anew.
    """

    def __init__(
        self, network: nn.Module, own: tuple[Channels, Channels], given: tuple[Channels, Channels]
    ) -> None:
        super().__init__()
        self.network = network
        (mean, std), (given_mean, given_std) = (
            tuple(torch.tensor(values)[:, None, None] for values in pair) for pair in (own, given)
        )
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", given_std / std)
        self.register_buffer("shift", (given_mean - mean) / std)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return self.network(images * self.scale + self.shift)


def distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher / T || student / T), mean over the images (Hinton et al. 2015, section 2)."""
    student = nn.functional.log_softmax(logits / temperature, dim=1)
    target = nn.functional.log_softmax(teacher / temperature, dim=1)
    divergence = nn.functional.kl_div(student, target, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def adaptive_divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """The adaptive alpha-divergence of AlphaNet (Wang et al. 2021), mean over the images.

    D_a = sum_c q ((p / q)^a - 1) / (a (a - 1)) of a teacher p and a student q punishes a student
    that is surer than its teacher where a = -1, and one that is less sure where a = 1, which is
    KL(p || q). Each image takes the larger of both. Where a = -1, (p / q)^a is 5 at most, in value
    and gradient, so that a class that the teacher rules out does not dominate; the gradient is then
    sum_c q (p / q)^a grad log q / -a. All of it as the released code has it.
    """
    log_q = nn.functional.log_softmax(logits, dim=1)
    log_p = nn.functional.log_softmax(teacher, dim=1)
    q, p = log_q.detach().exp(), log_p.exp()
    inverse = torch.exp((log_q.detach() - log_p).clamp(max=math.log(5)))
    # The value of each divergence, and a term that has its gradient.
    over, over_term = (q * (inverse - 1)).sum(1) / 2, (q * inverse * log_q).sum(1)
    under, under_term = (p * (log_p - log_q.detach())).sum(1), -(p * log_q).sum(1)
    chosen, term = torch.maximum(over, under), torch.where(over > under, over_term, under_term)
    return (chosen + term - term.detach()).mean()


def teacher_parent(config: TrainingConfig) -> dict[str, str]:
    """The teacher as a parent of a run, if it is a saved network."""
    return {} if config.saved_teacher is None else {"teacher": str(config.saved_teacher.absolute())}


def teacher_name(run: RunFolder, config: TrainingConfig) -> str | None:
    """The teacher of a run, a saved one by where it is now. Raises BadInput where it is gone."""
    if config.saved_teacher is None or "teacher" not in run.parents:
        return config.teacher
    return run.find("teacher", "--set teacher=PATH")


def load_teacher(
    name: str,
    classes: tuple[str, ...],
    given: tuple[Channels, Channels],
    resolution: int,
    supernet: Supernet | None,
) -> Teacher:
    """The teacher that a config names (`TrainingConfig.teacher`).

    classes, given, resolution: the class names, mean and std, and the side of the images, of the
    student. supernet: what `supernet` stands for. Raises BadInput for one that cannot be had, has
    other classes or takes no images of that size.
    """
    if name == "supernet":
        if supernet is None:
            raise BadInput(
                "teacher supernet: it is the largest arch of --inherit, an option of `train`"
            )
        arch = CostModel(supernet.space, folded=False).largest("flops")
        return Teacher(inherit(supernet, arch), given, given)
    if name.startswith("timm:"):
        return _timm_teacher(name, len(classes), given, resolution)
    network, info = load_network(Path(name))
    if info.classes != classes:
        raise BadInput(f"teacher {name} has other classes than the images")
    return Teacher(network, (info.mean, info.std), given)


def check_teacher(run: RunFolder, teacher: Teacher) -> None:
    """Raise BadInput unless the teacher is that which a run was started with."""
    if fingerprint(teacher) != run.facts.get("teacher_checksum"):
        raise BadInput(f"the teacher is not the one that {run.path} was started with")


def _timm_teacher(
    name: str, num_classes: int, given: tuple[Channels, Channels], resolution: int
) -> Teacher:
    import timm

    model, at, file = name.removeprefix("timm:").partition("@")
    if at and not Path(file).is_file():
        raise BadInput(f"teacher {name}: no such file: {file}")
    try:
        network = timm.create_model(model, pretrained=not at, num_classes=num_classes)
        if at:
            timm.models.load_checkpoint(
                network, file, weights_only=True
            )  # not every timm's default
        with torch.no_grad():
            network.eval()(torch.zeros(1, len(given[0]), resolution, resolution))
    # An unknown name, no network, weights of another model, images of another size than it takes.
    except Exception as error:
        raise BadInput(f"teacher {name}: {one_line(error)}") from None
    config = network.pretrained_cfg
    if not at and config["num_classes"] != num_classes:  # timm leaves the classifier untrained then
        raise BadInput(
            f"teacher {name} has {config['num_classes']} classes, the images have {num_classes}; "
            "@FILE gives it weights for them"
        )
    return Teacher(network, (tuple(config["mean"]), tuple(config["std"])), given)
