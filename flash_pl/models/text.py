"""Networks for sequences of characters: a causal transformer and an LSTM."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flash_pl.checks import check_integers
from flash_pl.errors import ConfigError


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a position sees itself and the positions before it.

    Source: Vaswani et al., Attention Is All You Need, 2017, section 3.2.

    Args:
        dim: features of a position.
        heads: number of heads; it divides ``dim``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, features: Tensor) -> Tensor:
        """``[B, T, dim]`` -> ``[B, T, dim]``."""
        layers = self.query, self.key, self.value
        query, key, value = (layer(features).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward network, each after a LayerNorm and added to its input.

    The order is that of GPT-2 (Radford et al., 2019): norms stand in front, so training needs no warm-up.

    Args:
        dim: features of a position; the feed-forward network has ``4 * dim`` hidden units.
        heads: of the attention.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), CausalAttention(dim, heads)
        self.norm2, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, features: Tensor) -> Tensor:
        """``[B, T, dim]`` -> ``[B, T, dim]``."""
        features = features + self.attention(self.norm1(features))
        return features + self.down(F.gelu(self.up(self.norm2(features))))


class CharTransformer(nn.Module):
    """A causal transformer: characters ``[B, T]`` -> logits of the next characters ``[B, T, num_classes]``.

    The logits of a position depend on its character and those before it. Without dropout, which would draw from the
    global random state. Embeddings and norms are not masked by default; the linear layers of the blocks are.

    Args:
        num_classes: size of the vocabulary.
        context_length: the largest T.
        dim: features of a position.
        depth: number of blocks.
        heads: heads of the attention; they divide ``dim``.

    >>> network = CharTransformer(num_classes=10, context_length=8, dim=16, depth=1, heads=2)
    >>> network(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 10])

    Raises:
        ConfigError: a number is not a positive integer, or ``heads`` does not divide ``dim``.
    """

    def __init__(
        self, num_classes: int = 64, context_length: int = 64, dim: int = 96, depth: int = 3, heads: int = 3
    ) -> None:
        super().__init__()
        check_integers(num_classes=num_classes, context_length=context_length, dim=dim, depth=depth, heads=heads)
        if dim % heads:
            raise ConfigError("heads", f"{heads} does not divide the {dim} features of dim")
        self.embedding = nn.Embedding(num_classes, dim)
        self.position = nn.Parameter(torch.randn(context_length, dim))  # like the embedding
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, num_classes)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits ``[B, T, num_classes]`` for T up to ``context_length``."""
        features = self.embedding(characters) + self.position[: characters.shape[1]]
        return self.fc(self.norm(self.blocks(features)))


class CharLSTM(nn.Module):
    """An LSTM: characters ``[B, T]`` -> logits of the next characters ``[B, T, num_classes]``.

    Source: the network for Shakespeare's plays of McMahan et al. (AISTATS 2017) and LEAF (arXiv 1812.01097), which have
    two layers of 256 units after an embedding of 8 features.

    Args:
        num_classes: size of the vocabulary.
        embedding: features of a character.
        hidden: units of a layer.
        depth: number of layers.

    >>> CharLSTM(num_classes=10, hidden=16)(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 10])

    Raises:
        ConfigError: a number is not a positive integer.
    """

    def __init__(self, num_classes: int = 64, embedding: int = 8, hidden: int = 256, depth: int = 2) -> None:
        super().__init__()
        check_integers(num_classes=num_classes, embedding=embedding, hidden=hidden, depth=depth)
        self.embedding = nn.Embedding(num_classes, embedding)
        self.lstm = nn.LSTM(embedding, hidden, depth, batch_first=True)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits ``[B, T, num_classes]``."""
        return self.fc(self.lstm(self.embedding(characters))[0])
