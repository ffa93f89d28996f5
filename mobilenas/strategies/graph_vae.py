"""A variational autoencoder of graphs whose edges are fixed and whose nodes have ops, and a
predictor on its latent space (SVGe, Lukasik et al. 2021).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

_WIDTH, _LATENT = 64, 32
_ROUNDS = 2  # of messages
_NOISE = 0.01  # of a latent point in training, as released
_KL = 0.005
_RATE, _BATCH = 1e-3, 64
_OF_LABELS = 0.9  # share of the predictor in the loss that learns from labels


class GraphVae(nn.Module):
    """Genes (n, nodes), the index of the op of each node, to latent points and back.

    sizes: number of ops of each node. before: of each node those before it whose outputs it takes,
    in an order in which these stand before it. The graph is the same for all, so only ops are
    encoded and decoded, and a node has embeddings of its own: which op it has there is all there is
    to know.
    """

    def __init__(self, sizes: Sequence[int], before: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.sizes, self.before = sizes, before
        width = _WIDTH
        adjacency = torch.zeros(len(sizes), len(sizes))
        for node, sources in enumerate(before):
            adjacency[node, list(sources)] = 1
        self.adjacency = adjacency
        self.ops = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.places = nn.Embedding(len(sizes), width)
        self.messages = nn.ModuleList(nn.Linear(2 * width, 2 * width) for _ in range(2))
        self.updates = nn.ModuleList(nn.GRUCell(2 * width, width) for _ in range(2))
        self.gate, self.value = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, 2 * width)
        self.mean, self.log_variance = nn.Linear(2 * width, _LATENT), nn.Linear(2 * width, _LATENT)
        self.start = nn.Linear(_LATENT, width)
        self.sent = nn.Linear(width, width)
        self.grow = nn.GRUCell(2 * width, width)
        self.grown_gate, self.grown = nn.Linear(width, width), nn.Linear(width, width)
        self.hidden = nn.Sequential(nn.Linear(2 * width + _LATENT, 2 * width), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(2 * width, size) for size in sizes)
        layers = [_LATENT, width, width, width]
        hidden = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(layers)]
        self.predictor = nn.Sequential(*(m for pair in hidden for m in pair), nn.Linear(width, 1))

    def encode(self, genes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of latent points, (n, latent): messages along the edges, and in
        another pass against them, then a gated sum over nodes.
        """
        start = torch.stack([op(g) for op, g in zip(self.ops, genes.T, strict=True)], 1)
        start = start + self.places.weight
        passes = []
        for along, message, update in zip(
            (self.adjacency, self.adjacency.T), self.messages, self.updates, strict=True
        ):
            state = start
            for _ in range(_ROUNDS):
                degree = along.sum(1)[:, None]
                pairs = torch.cat([along @ state, degree * state], 2)
                sent = message(pairs) * (degree > 0)
                state = update(sent.flatten(0, 1), state.flatten(0, 1)).view_as(state)
            passes.append(state)
        nodes = torch.cat(passes, 2)
        graph = (self.gate(nodes).sigmoid() * self.value(nodes)).sum(1)
        return self.mean(graph), self.log_variance(graph)

    def logits(self, z: Tensor, genes: Tensor | None = None) -> list[Tensor]:
        """Of each node those of its ops, (n, ops), node by node from what was built before it: with
        the given genes, or the likeliest ones.
        """
        graph, states, found = self.start(z).tanh(), list[Tensor](), []
        for node, (sources, op, head) in enumerate(
            zip(self.before, self.ops, self.heads, strict=True)
        ):
            place = self.places.weight[node].expand(len(z), -1)
            found.append(head(self.hidden(torch.cat([graph, place, z], 1))))
            chosen = found[-1].argmax(1) if genes is None else genes[:, node]
            taken = sum((self.sent(states[s]) for s in sources), torch.zeros_like(place))
            states.append(self.grow(torch.cat([op(chosen) + place, taken], 1), graph))
            graph = graph + self.grown_gate(states[-1]).sigmoid() * self.grown(states[-1])
        return found

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Genes (n, nodes) of latent points."""
        return torch.stack([each.argmax(1) for each in self.logits(z)], 1)

    def loss(self, genes: Tensor) -> Tensor:
        """Of the reconstruction, summed over nodes, and the divergence from a normal distribution;
        the mean of the graphs.
        """
        mean, log_variance = self.encode(genes)
        z = mean + _NOISE * torch.randn_like(mean) * (log_variance / 2).exp()
        logits = self.logits(z, genes)
        errors = [cross_entropy(x, g) for x, g in zip(logits, genes.T, strict=True)]
        return torch.stack(errors).sum() + _KL * divergence(mean, log_variance)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of normal distributions from the standard one, the mean of the rows."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2


def train_vae(vae: GraphVae, draw: Callable[[int], Tensor], steps: int) -> None:
    """On graphs that are drawn. draw: genes of so many."""
    optimizer = torch.optim.Adam(vae.parameters(), _RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        vae.loss(draw(_BATCH)).backward()
        optimizer.step()


def train_predictor(vae: GraphVae, genes: Tensor, labels: Tensor, steps: int) -> None:
    """On graphs with labels (n,) of mean 0 and deviation 1, the autoencoder with it."""
    optimizer = torch.optim.Adam(vae.parameters(), _RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        rows = torch.randint(len(genes), (_BATCH,))
        predicted = vae.predictor(vae.encode(genes[rows])[0])[:, 0]
        error = (predicted - labels[rows]).square().mean()
        (_OF_LABELS * error + (1 - _OF_LABELS) * vae.loss(genes[rows])).backward()
        optimizer.step()


def climb(vae: GraphVae, z: Tensor, steps: int, size: float) -> Tensor:
    """Latent points (n, latent) moved up the gradient of the prediction, each step of that size."""
    for _ in range(steps):
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(vae.predictor(z).sum(), z)
        z = z + size * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return z.detach()
