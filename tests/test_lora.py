"""The example with peft's adapters in the documentation; it needs the package peft."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from flash_pl import PDST, Classifier, FederatedTrainer
from flash_pl.data import TensorData
from flash_pl.models import CharTransformer

peft = pytest.importorskip("peft", reason="peft is not installed (pip install 'flash-pl[lora]')")
PAGE = Path(__file__).parents[1] / "docs" / "howto" / "lora.md"


@pytest.mark.slow
def test_the_page_shows_the_numbers_that_its_example_prints(tmp_path, capsys):
    (block,) = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "example.py").write_text(block)
    names = runpy.run_path(str(tmp_path / "example.py"))
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(printed) == len(names["runs"]) and not set(printed) - set(PAGE.read_text().splitlines())
    adapters = 2 * (4 * 4 * (32 + 32) + 2 * 4 * (32 + 128))  # rank 4: A and B of 4 + 2 layers in 2 blocks
    for loop in names["loops"].values():
        assert loop.server.layout.sent == loop.server.layout.trained == adapters


@pytest.mark.slow
@pytest.mark.parametrize("add", ["inject_adapter_in_model", "get_peft_model"])
def test_only_adapters_are_masked_and_the_base_keeps_every_bit(add):
    torch.manual_seed(0)
    network = CharTransformer(num_classes=7, context_length=12, dim=16, depth=1, heads=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    config = peft.LoraConfig(r=2, target_modules=["query", "up"])
    if add == "get_peft_model":
        adapted = peft.get_peft_model(network, config)
    else:
        adapted = peft.inject_adapter_in_model(config, network)
    numbers = (torch.arange(20).unsqueeze(1) + torch.arange(13)) % 7
    data = TensorData(
        (numbers[:, :-1], numbers[:, 1:], torch.arange(20) % 4), (numbers[:, :-1], numbers[:, 1:]), clients=None
    )
    module = Classifier(adapted, classes=7, lr=0.01, optimizer="adam")
    loop = FederatedTrainer(PDST(), density=0.5, rounds=2, cohort=2, accelerator="cpu").fit(module, data)
    layout = loop.server.layout
    assert layout.maskable == layout.sent == 2 * (16 + 16) + 2 * (16 + 64)
    assert all("lora_" in layer.name for layer in layout.layers)
    after = {name.replace(".base_layer", ""): value for name, value in network.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    changed = [value for name, value in after.items() if "lora_B" in name]
    assert changed and any(value.any() for value in changed)  # B was 0
