"""Every byte and FLOP of a round is counted, and counting changes nothing."""

from functools import partial

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.flop_counter import FlopCounterMode

from flash_pl import Dense, FederatedTrainer
from flash_pl.callbacks import Callback
from flash_pl.config import build_trainer, compose, read_config
from flash_pl.costs import Traffic, count_flops, entropy_bits
from flash_pl.server import RoundRobinSampler
from flash_pl.sparsity import Layout
from flash_pl.wire import MaskKind, Sizes

METHODS = ["dense", "pdst", "nst", "spdst", "jmwst", "hetero_jmwst", "hetero_nst"]
HEADER = 12 + 1 + 1  # magic to checksum, number of samples, length of the mask section: all below 128 here
NO_EXTRA = 1


class Rows(Callback):
    def __init__(self):
        self.rows = []

    def on_round_end(self, loop, row):
        self.rows.append({name: value for name, value in row.items() if "seconds" not in name})


def train(method, module, data, rounds=4, sampler=None, backend="auto", **settings) -> tuple:
    arguments = ["density=0.3", "trainer.accelerator=cpu", f"rounds={rounds}", "cohort=4", "clients=8"]
    arguments += [
        f"trainer.backend={backend}",
        "data=synthetic",
        "model.exclude_first_last=false",
        *(f"wire.{key}={value}" for key, value in settings.items()),
    ]
    if method in ("spdst", "jmwst", "hetero_jmwst"):
        arguments += ["scheduler.sensitivity.init_fraction=0.25", "scheduler.sensitivity.epochs=2"]
    watch = Rows()
    trainer: FederatedTrainer = build_trainer(compose(read_config(method), arguments), [watch])
    trainer.sampler = sampler or trainer.sampler
    torch.manual_seed(0)
    return trainer.fit(module(), data), watch.rows


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_clients_that_train_on_decoded_bytes_train_the_same(method, unaware, tiny_data):
    counted, rows = train(method, unaware, tiny_data)
    verified, other = train(method, unaware, tiny_data, verify="true")
    assert torch.equal(counted.server.weights, verified.server.weights)
    assert torch.equal(counted.server.mask, verified.server.mask) and rows == other


def test_double_precision_arrives_as_what_is_counted(unaware, tiny_data):
    def double():
        class Double(unaware):
            def training_step(self, batch, batch_idx):
                return super().training_step([batch[0].double(), batch[1]], batch_idx)

            def validation_step(self, batch, batch_idx):
                return super().validation_step([batch[0].double(), batch[1]], batch_idx)

        return Double().double()

    counted, rows = train("pdst", double, tiny_data)
    verified, other = train("pdst", double, tiny_data, verify="true")
    assert counted.server.weights.dtype == torch.float64 and rows == other
    assert torch.equal(counted.server.weights, verified.server.weights)


def test_clients_of_stage_1_start_from_what_arrives(unaware, tiny_data):
    seen = []

    class Look(unaware):
        def on_train_start(self):
            if self._client.context.purpose == "sensitivity":
                seen.append(self._client.weights.clone())

    train("spdst", Look, tiny_data, values="fp16")
    assert seen and all(torch.equal(weights, weights.half().float()) for weights in seen)


def test_short_values_halve_them_and_change_what_is_trained(unaware, tiny_data):
    (full, rows), (half, short) = (train("pdst", unaware, tiny_data, values=v) for v in ("fp32", "bf16"))
    assert short[0]["bytes_up_values"] == rows[0]["bytes_up_values"] / 2
    assert not torch.equal(full.server.weights, half.server.weights)
    torch.testing.assert_close(full.server.weights, half.server.weights, rtol=0.1, atol=0.05)


def test_a_fixed_mask_costs_a_seed_once_and_a_checksum_from_then_on(unaware, tiny_data):
    loop, rows = train("pdst", unaware, tiny_data, sampler=RoundRobinSampler())
    layout, active = loop.server.layout, int(loop.server.mask.sum())
    values, rest = 4 * active, 4 * (layout.elements - layout.maskable) + NO_EXTRA
    counts = sum(1 if count < 128 else 2 for count in layout.counts(loop.server.mask).tolist())
    for row, mask in zip(rows, [8 + counts, 8 + counts, 4, 4], strict=True):
        # Four clients a round, eight in all: after two rounds everybody has the mask.
        assert row["bytes_down"] == 4 * (HEADER + mask + values + rest)
        assert row["bytes_up"] == 4 * (HEADER + 4 + values + rest)
        assert row["bytes_once"] == (4 * mask if mask > 4 else 0)
        assert row["bytes_up_values"] == row["bytes_down_values"] == 4 * values
        assert row["bytes_up_entropy"] == row["bytes_up_bitmap"] == 4 * (values + rest)
    assert rows[-1]["bytes_up_total"] == sum(row["bytes_up"] for row in rows)


def test_clients_that_keep_their_own_mask_get_no_mask_again(unaware, tiny_data):
    _, rows = train("nst", unaware, tiny_data, sampler=RoundRobinSampler())
    assert rows[0]["bytes_once"] > 0 and rows[2]["bytes_once"] == 0
    for row in rows[2:]:
        assert row["bytes_down"] < row["bytes_up"]  # down a checksum, up the difference to it
        assert row["bytes_down_bitmap"] < row["bytes_up_bitmap"]


def test_stage_1_is_on_the_bill(unaware, tiny_data):
    loop, rows = train("spdst", unaware, tiny_data)
    flops = loop.ledger.flops
    layers, passes = len(loop.server.layout.layers), 2 * 2 * 20  # two clients, two epochs, 20 samples
    assert rows[0]["bytes_up_total"] - rows[0]["bytes_up"] == 2 * 4 * layers
    assert rows[0]["bytes_down_total"] - rows[0]["bytes_down"] > 2 * 4 * int(loop.server.mask.sum())
    assert 0 < rows[0]["flops_total"] - rows[0]["flops"] < passes * flops.training(flops.dense)


def test_dense_training_is_the_measure_of_flops(unaware, tiny_data):
    loop, rows = train("dense", unaware, tiny_data)
    flops = loop.ledger.flops
    # 8 x 8 images: a 3 x 3 convolution of 1 to 4 channels, then 144 to 16 to 4 units; a multiply-add is two.
    assert flops.layers == (2 * 36 * 9 * 4, 2 * 144 * 16, 2 * 16 * 4) and flops.rest == flops.rest_gradients == 0
    assert flops.input_gradients == (0, *flops.layers[1:])
    assert rows[0]["flops"] == 4 * 20 * (3 * sum(flops.layers) - flops.layers[0])
    assert rows[0]["flops_ratio"] == rows[0]["flops_inference_ratio"] == 1


def test_what_surrounds_validation_steps_is_not_counted(unaware, tiny_data):
    class Samples(unaware):
        def on_validation_epoch_start(self):
            self.net(torch.zeros(100, 1, 8, 8))

        def on_validation_epoch_end(self):
            self.net(torch.zeros(100, 1, 8, 8))

    plain, watched = (train("dense", module, tiny_data, rounds=1)[0] for module in (unaware, Samples))
    assert watched.ledger.flops == plain.ledger.flops


def evaluates_twice(base):
    class Module(base):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            super().validation_step(batch, batch_idx)

    return Module


def trains_on_two_views(base):
    class Module(base):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + super().training_step([-batch[0], batch[1]], batch_idx)

    return Module


def has_a_second_head(base):
    class Module(base):
        def __init__(self):
            super().__init__()
            self.other = nn.Linear(64, 4)

        def training_step(self, batch, batch_idx):
            other = nn.functional.cross_entropy(self.other(batch[0].flatten(1)), batch[1])
            return super().training_step(batch, batch_idx) + other

    return Module


def guesses_labels(base):
    class Module(base):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                guess = self.net(-batch[0]).argmax(1)
            return super().training_step(batch, batch_idx) + super().training_step([batch[0], guess], batch_idx)

    return Module


def doubles_its_batches(base):
    class Module(base):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [torch.cat([part, part]) for part in batch]

    return Module


VARIANTS = [evaluates_twice, trains_on_two_views, has_a_second_head, guesses_labels, doubles_its_batches]


@pytest.mark.parametrize("variant", VARIANTS)
def test_flops_are_those_of_the_training_that_takes_place(variant, unaware, tiny_data):
    """Against torch's counter, which sees all training steps of a round."""
    counters = []

    class Watched(variant(unaware)):
        def on_train_start(self):
            counters.append(FlopCounterMode(display=False))
            counters[-1].__enter__()

        def on_train_end(self):
            counters[-1].__exit__(None, None, None)

    loop, rows = train("dense", Watched, tiny_data, rounds=1, backend="dense")
    of_round = counters[-rows[0]["participants"] :]  # the one before them was the trial's
    assert rows[0]["flops"] == sum(counter.get_total_flops() for counter in of_round)
    assert rows[0]["flops_ratio"] == 1
    assert loop.ledger.flops.forward(loop.ledger.flops.dense) == rows[0]["flops_inference"]


class Texts:
    """Batches of five texts, as lists of tensors of different lengths."""

    samples = 10

    def __len__(self):
        return 2

    def __iter__(self):
        generator = torch.Generator().manual_seed(1)
        for _ in range(len(self)):
            yield [torch.rand(int(length), generator=generator) for length in (7, 2, 9, 4, 3)]

    def shuffled(self, generator):
        return iter(self)


@pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`")
@pytest.mark.parametrize("says", [True, False])
def test_a_sample_is_one_of_the_batch_also_if_its_tensors_differ_in_length(says):
    class Data:
        clients, client_sizes = 2, (10, 10)

        def prepare_data(self):
            pass

        def setup(self, stage):
            pass

        def to_(self, device):
            pass

        def client_batches(self, client):
            return Texts()

        def val_dataloader(self):
            return Texts()

    class Reader(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 4)

        def shared(self, batch):
            loss = sum(self.layer(text[:, None]).square().mean() for text in batch)
            self.log("loss", loss, **({"batch_size": 5} if says else {}))
            return loss

        def training_step(self, batch, batch_idx):
            return self.shared(batch)

        def validation_step(self, batch, batch_idx):
            self.shared(batch)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    trainer = FederatedTrainer(Dense(), density=1.0, rounds=1, cohort=1, accelerator="cpu")
    loop = trainer.fit(Reader(), Data())
    forward = 2 * 4 * (7 + 2 + 9 + 4 + 3) / 5
    assert loop.ledger.training.training(loop.ledger.training.dense) == 2 * forward  # no gradient of the input
    if says:
        assert loop.metrics["flops_inference"] == forward


def uncountable(base, *steps):
    """A module with a step that fails where operations are observed, as an operation might that the counter breaks."""

    def step(name):
        def call(self, batch, batch_idx):
            if _get_current_dispatch_mode() is not None:
                raise RuntimeError("observed")
            return getattr(base, name)(self, batch, batch_idx)

        return call

    return type("Uncountable", (base,), {name: step(name) for name in steps})


def test_what_cannot_be_counted_is_said_and_the_run_goes_on(unaware, tiny_data):
    plain, _ = train("dense", unaware, tiny_data, rounds=1)
    with pytest.warns(UserWarning, match="FLOPs of training are derived from those of validation_step.*observed"):
        loop, rows = train("dense", uncountable(unaware, "training_step"), tiny_data, rounds=1)
    assert loop.ledger.training == loop.ledger.flops == plain.ledger.flops
    assert torch.equal(loop.server.weights, plain.server.weights)
    with pytest.warns(
        UserWarning, match="FLOPs are unknown, since those of validation_step cannot be counted.*observed"
    ):
        loop, rows = train("dense", uncountable(unaware, "validation_step"), tiny_data, rounds=1)
    assert "flops" not in rows[0] and torch.equal(loop.server.weights, plain.server.weights)
    assert loop.metrics["val_loss"] == plain.metrics["val_loss"]


def test_the_order_of_calls_decides_which_layer_sees_the_input():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(3, 2), nn.Linear(5, 3)

        def forward(self, x):
            return self.last(self.first(x)) @ torch.ones(2, 1)

    module = Backwards()
    flops = count_flops(module, ["last.weight", "first.weight"], lambda: module(torch.zeros(1, 5)))
    assert flops.layers == (12, 30) and flops.rest == 4
    assert flops.input_gradients == (12, 0) and flops.rest_gradients == 4  # nothing learns the factor of ones
    half = torch.tensor([0.5, 0.5])
    assert flops.forward(half) == 25 and flops.training(half) == 25 + 21 + 10
    part = 0.1 * (flops.forward(flops.dense) - flops.forward(half))
    assert flops.training(half, dense_gradients=0.1) == pytest.approx(flops.training(half) + part)


def test_a_layer_without_a_mask_can_be_the_one_that_sees_the_input():
    module = nn.Sequential(nn.Flatten(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))
    run = partial(module, torch.zeros(1, 5))
    whole, part = count_flops(module, ["1.weight", "3.weight"], run), count_flops(module, ["3.weight"], run)
    assert part.layers == (12,) and part.rest == part.rest_gradients == 30
    assert part.training(part.dense) == whole.training(whole.dense) == 3 * 42 - 30
    assert part.of_each(2).training(part.dense) == part.training(part.dense) / 2


def test_attention_is_counted():
    """In evaluation torch fuses it, where its counter does not look."""
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()
    flops = count_flops(block, ["linear1.weight", "linear2.weight"], lambda: block(torch.zeros(1, 3, 8)))
    assert flops.layers == (2 * 3 * 8 * 16, 2 * 3 * 8 * 16)
    assert flops.rest == 4 * 2 * 3 * 8 * 8 + 2 * 2 * 3 * 3 * 8  # three inputs and an output; scores and what they weigh
    assert torch.backends.mha.get_fastpath_enabled()


def test_attention_is_counted_for_the_weights_that_it_uses_without_calling_their_layers():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    queries, keys = torch.zeros(1, 3, 8), torch.zeros(1, 5, 8)
    flops = count_flops(attention, ["in_proj_weight", "out_proj.weight"], lambda: attention(queries, keys, keys))
    assert flops.layers == (2 * (3 + 5 + 5) * 8 * 8, 2 * 3 * 8 * 8)
    assert flops.input_gradients == (0, 2 * 3 * 8 * 8)
    assert flops.rest == 2 * 2 * 3 * 5 * 8  # scores, and the values that they weigh
    assert flops.rest_gradients == 2 * flops.rest  # both factors of both products depend on weights


@pytest.mark.parametrize("kind, gates", [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_are_counted_for_each_of_their_matrices(kind, gates):
    layer = kind(5, 4)
    flops = count_flops(layer, ["weight_ih_l0", "weight_hh_l0"], lambda: layer(torch.zeros(7, 2, 5)))
    assert flops.layers == (2 * 7 * 2 * gates * 4 * 5, 2 * 7 * 2 * gates * 4 * 4) and flops.rest == 0


def test_a_computed_weight_counts_for_the_parameter_under_the_mask():
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3))
    name, images = "parametrizations.weight.original1", torch.zeros(1, 2, 5, 5)
    flops = count_flops(layer, [name], lambda: layer(images))
    assert flops.layers == (2 * 9 * 2 * 4 * 9,) and flops.rest == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert count_flops(layer, [name], lambda: layer(images)) == flops


def test_a_product_counts_for_its_factor_and_not_for_a_bias_or_a_tensor_of_the_batch():
    layers = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 8))
    for sentences in (2, 3):  # 2 sentences of 5 words have as many words as the vocabulary
        tokens = torch.zeros(sentences, 5, dtype=torch.long)
        flops = count_flops(layers, ["0.weight", "1.bias", "1.weight"], lambda tokens=tokens: layers(tokens))
        assert flops.layers == (0, 0, 2 * sentences * 5 * 4 * 8) and flops.rest == 0


def test_a_transposed_convolution_is_counted_by_its_input():
    layer = nn.ConvTranspose2d(3, 5, 2, stride=2)
    assert count_flops(layer, ["weight"], lambda: layer(torch.zeros(1, 3, 4, 4))).layers == (2 * 16 * 3 * 5 * 4,)


def test_a_weight_that_two_layers_share_is_counted_in_both():
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    module[1].weight = module[0].weight
    flops = count_flops(module, ["0.weight", "2.weight"], lambda: module(torch.zeros(1, 4)))
    assert flops.layers == (2 * 2 * 16, 2 * 8) and flops.rest == 0
    assert flops.input_gradients == (2 * 16, 2 * 8)


def test_a_known_mask_is_free_in_every_convention():
    layout = Layout(nn.Linear(100, 10))
    mask = torch.zeros(1000, dtype=torch.bool)
    mask[:500] = True
    assert entropy_bits(layout, mask) == 1000
    sizes = {"header": 14, "mask": 125, "values": 2000, "rest": 41}
    assert Traffic.of(layout, mask, Sizes(MaskKind.BITMAP, **sizes)) == Traffic(2180, 2041 + 125, 2041 + 125, 2000, 0)
    assert Traffic.of(layout, mask, Sizes(MaskKind.SEED, **sizes), first=True) == Traffic(2180, 2041, 2041, 2000, 125)
