"""A wrong input is answered with one clear line and exit code 2: never a traceback, never a hang, no file lost.

The tables of this file are the list: arguments, config files, damaged checkpoints, data files, budgets, traces.
"""

import gzip
import json
import random
import shutil
import sys

import numpy as np
import pytest

from flash_pl.cli import main
from flash_pl.data.files import IDX_FILES as FILES

TINY = ["data=synthetic", "data.samples=120", "data.test_samples=40", "data.classes=4", "data.shape=[1, 8, 8]"]
TINY += ["model=digits_cnn", "model.hidden=16", "clients=6", "cohort=2", "batch_size=8", "density=0.2", "rounds=2"]
TINY += ["trainer.accelerator=cpu", "trainer.progress=false", "trainer.enable_model_summary=false"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASH_PL_DATA", str(tmp_path / "cache"))


def refusal(capsys, *arguments, command="fit"):
    """The one line that a command prints when it refuses."""
    assert main([command, *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("flash-pl: error: ")
    return err.removeprefix("flash-pl: error: ")


# An accelerator that no machine of this system has.
FOREIGN = "cuda" if sys.platform == "darwin" else "mps"

# Argument, the key that the message starts with, a value or a name that the message must contain.
ARGUMENTS = [
    ("rond=3", "rond", "did you mean rounds?"),
    ("trainer.eval_evry=1", "trainer.eval_evry", "did you mean eval_every?"),
    ("wire.bytes=1", "wire.bytes", "values, compress, verify"),
    ("wire.values=int8", "wire.values", "fp32, fp16, bf16"),
    ("wire.verify=often", "wire.verify", "'often'"),
    ("trainer=5", "trainer", "5 is not a mapping"),
    ("rounds=ten", "rounds", "'ten' is not an integer"),
    ("rounds=1.5", "rounds", "1.5 is not an integer"),
    ("rounds=0", "rounds", "0 is not an integer of at least 1"),
    ("local_epochs=-1", "local_epochs", "-1 is not an integer of at least 1"),
    ("density=0", "density", "0.0 is not in (0, 1]"),
    ("density=1.5", "density", "1.5 is not in (0, 1]"),
    ("density=nan", "density", "nan"),
    ("cohort=21", "cohort", "21 is more than the 20 clients"),
    ("alpha=0", "alpha", "0.0"),
    ("lr=-0.1", "lr", "-0.1"),
    ("optimizer=lion", "optimizer", "'lion'"),
    ("data=text", "data.files", "TextFiles"),
    ("data={name: text, files: missing/*.txt}", "data.files", "'missing/*.txt'"),
    ("lr_end=inf", "lr_end", "inf"),
    ("trainer.backend=fast", "trainer.backend", "'fast' is not one of auto, dense, sparse"),
    ("trainer.devices=0", "trainer.devices", "0"),
    ("trainer.precision=8", "trainer.precision", "32-true"),
    ("trainer.accelerator=abacus", "trainer.accelerator", "'abacus'"),
    ("compat=offical", "compat", "did you mean official?"),
    ("scheduler=jmwts", "scheduler", "did you mean jmwst?"),
    ("data=digit", "data", "did you mean digits?"),
    ("data=5", "data", "5 is not a known name"),
    ("data.rot=/x", "data.rot", "there is no such key"),
    ("data.batch_size=many", "data.batch_size", "'many' is not an integer"),
    ("data.partition=idd", "data.partition", "did you mean iid?"),
    ("data.partition.alpha=-1", "data.partition.alpha", "-1"),
    ("data.partition={name: label_shards, shards_per_client: 72}", "data.partition.shards_per_client", "71"),
    ("model=lenet", "model", "did you mean lenet5?"),
    ("model.hidden=x", "model.hidden", "'x' is not an integer"),
    ("model.exclude=[conv9]", "model.exclude", "conv1, conv2, fc1, fc2"),
    ("model.exclude=conv1", "model.exclude", "'conv1' is not a list"),
    ("model.exclude_first_last=maybe", "model.exclude_first_last", "'maybe' is not true or false"),
    ("model.class_path=torch.nn.Linea", "model.class_path", "did you mean Linear?"),
    ("model.class_path=no_such_package.Net", "model.class_path", "No module named 'no_such_package'"),
    ("model.class_path=torch.nn.Linear", "model.in_features", "Linear needs an integer"),
    ("model.class_path=torch.optim.SGD", "model.class_path", "'torch.optim.SGD' is not a Module"),
    ("model.class_path=torchvision.models.list_models", "model.class_path", "list_models' is not a Module"),
    ("scheduler.prune_rat=0.3", "scheduler.prune_rat", "did you mean prune_rate?"),
    ("scheduler.prune_rate=high", "scheduler.prune_rate", "'high' is not a number"),
    ("scheduler.prune_rate=2", "scheduler.prune_rate", "2"),
    ("scheduler.sensitivity.epochs=0", "scheduler.sensitivity.epochs", "0"),
    ("scheduler.voter=majorty", "scheduler.voter", "did you mean majority?"),
    ("scheduler.voter.class_path=flash_pl.sparsity.Move", "scheduler.voter.class_path", "is not a Vote"),
    ("scheduler.voter.rescal=scale_down", "scheduler.voter.rescal", "did you mean rescale?"),
    ("scheduler.class_path=flash_pl.server.FedAvg", "scheduler.class_path", "is not a SparseScheduler"),
    ("scheduler.init_args=5", "scheduler.init_args", "5 is not a mapping"),
    ("aggregator.class_path=flash_pl.PDST", "aggregator.class_path", "is not a FedAvg"),
    ("sampler.class_path=flash_pl.PDST", "sampler.class_path", "is not a ClientSampler"),
    ("budget.tiers=5", "budget.tiers", "5 is not a list"),
    ("budget.tiers=[{density: 0.05}]", "budget.tiers[0].share", "Tier needs a number"),
    ("budget.tiers=[{density: 0.05, shar: 1}]", "budget.tiers[0].shar", "did you mean share?"),
    ("budget.tiers=[{density: 0.06, share: 0.5}, {density: 0.05, share: 0.5}]", "budget.tiers", "0.06"),
    ("budget.tiers=[{density: 0.1, share: 1}]", "budget", "0.05"),
    ("budget.tiers=[{density: 0.05, share: all}]", "budget.tiers[0].share", "'all' is not a number"),
    ("budget=file", "budget.path", "FileBudget needs"),
    ("budget=by_tier", "budget", "by_position, by_share, file"),
    ("budget.class_path=flash_pl.PDST", "budget.class_path", "is not a SparsityBudget"),
    ("fleet=tablet", "fleet", "microcontroller, mixed, phone, raspberry_pi"),
    ("fleet.deadline=0", "fleet.deadline", "0"),
    ("fleet.deadlin=1", "fleet.deadlin", "did you mean deadline?"),
    ("fleet.devices=[{kind: a, downlink: 1, uplink: 1, flops: 1, share: 0.5}]", "fleet.devices", "sum to 1"),
    (
        "fleet.devices=[{kind: a, downlink: fast, uplink: 1, flops: 1}]",
        "fleet.devices[0].downlink",
        "'fast' is not a number",
    ),
    ("fleet.class_path=flash_pl.PDST", "fleet.class_path", "is not a Fleet"),
    ("sampler=availability", "sampler.offline", "AvailabilitySampler needs"),
    ("sampler={name: availability, offline: [0.5, 0.5]}", "sampler.offline", "[0.5, 0.5]"),
    ("trainer.finetune_epochs=2", "trainer.finetune_epochs", "eval_clients_every"),
    ("clients=2000", "clients", "1437"),
    ("ckpt_path=nowhere.ckpt", "ckpt_path", "No such file"),
    ("run_dir=runs/{who}", "run_dir", "{scheduler}"),
    ("run_dir=taken/run", "run_dir", "'taken/run'"),
    ("lr=${speed}", "lr", "Interpolation key 'speed' not found"),
    ("rounds", "argument", "key=value"),
    ("rounds=[1", "rounds", "'[1' is not YAML"),
    ("trainer.devices=two", "trainer.devices", "'two'"),
    ("trainer.devices=[]", "trainer.devices", "[]"),
    ("trainer.devices=1.5", "trainer.devices", "1.5"),
    ("trainer.num_nodes=0", "trainer.num_nodes", "0 is not an integer of at least 1"),
    ("trainer.strategy=fsdp", "trainer.strategy", "'fsdp' is not one of auto, ddp"),
    ("run_dir=runs/{data.name}", "run_dir", "'runs/{data.name}'"),
    ("run_dir=runs/{seed[0]}", "run_dir", "'runs/{seed[0]}'"),
    ("data.eval_batch_size=???", "data.init_args.eval_batch_size", "???"),
    ("density=0.000001", "density", "1e-06"),
    ("trainer.timeout=0", "trainer.timeout", "0"),
    ("trainer.timeout=soon", "trainer.timeout", "'soon' is not a number"),
    # Numbers that no machine has.
    ("seed=9223372036854775808", "seed", "9223372036854775808"),
    ("rounds=1000000000000", "rounds", "1000000000000 is more than 2147483647"),
    ("local_epochs=1000000000000", "local_epochs", "1000000000000"),
    ("batch_size=1" + 30 * "0", "batch_size", "1" + 30 * "0"),
    ("lr=1e300", "lr", "1e+300"),
    ("trainer.threads=1000000000", "trainer.threads", "1000000000"),
    ("trainer.timeout=1e300", "trainer.timeout", "1e+300"),
    ("trainer.timeout=1e-9", "trainer.timeout", "1e-09"),
    ("trainer.timeout=nan", "trainer.timeout", "nan"),
    ("trainer.devices=1000000000", "trainer.devices", "1000000000"),
    ("trainer.num_nodes=1000000000", "trainer.num_nodes", "1000000000"),
    ("data={name: synthetic, samples: 1000000000000000}", "data.samples", "1000000000000000"),
    ("data={name: synthetic, shape: [1, 1000000, 1000000]}", "data.samples", "TiB"),
    ("ckpt_path=~nobody_of_this_name/last.ckpt", "ckpt_path", "~nobody_of_this_name"),
    ("trainer.threads=0", "trainer.threads", "0 is not an integer of at least 1"),
    ("trainer.timeout=nan", "trainer.timeout", "'nan' is not a number"),
    ("trainer.devices='1000000000'", "trainer.devices", "'1000000000'"),
    ("seed=18446744073709551616", "seed", "18446744073709551616 is more than"),
    ("batch_size=1180591620717411303424", "batch_size", "1180591620717411303424 is more than"),
    ("clients=1000000000000", "clients", "1000000000000"),
    ("lr=1e400", "lr", "inf is not in (0, 1e38]"),
    ("lr=" + "1" * 309, "lr", "is not YAML"),
    ("seed=" + "1" * 5000, "seed", "(5,002 characters) is not YAML"),
    ("rounds=0x" + "f" * 5000, "rounds", "(5,004 characters) is not YAML"),
    ("lr_end=" + "a" * 100_000, "lr_end", "(100,002 characters) is not a number"),
    ("trainer.on_client_error=ignore", "trainer.on_client_error", "'ignore' is not one of raise, skip"),
    ("trainer.min_clients=0", "trainer.min_clients", "0 is not an integer of at least 1"),
    ("trainer.round_attempts=0", "trainer.round_attempts", "0 is not an integer of at least 1"),
    ("trainer.monitor_mode=best", "trainer.monitor_mode", "'best' is not one of max, min"),
    ("trainer.checkpoint_every=-1", "trainer.checkpoint_every", "-1 is not an integer of at least 0"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val", "-1"),
    ("trainer.gradient_clip_algorithm=sum", "trainer.gradient_clip_algorithm", "sum"),
    ("trainer.eval_last=0", "trainer.eval_last", "0 is not an integer of at least 1"),
    (f"trainer.accelerator={FOREIGN}", "trainer.accelerator", f"'{FOREIGN}'"),
    ("seed=-1", "seed", "-1 is not an integer of at least 0"),
    ("seed=1e3", "seed", "1000.0 is not an integer"),
    ("clients=0", "clients", "0 is not an integer of at least 1"),
    ("cohort=0", "cohort", "0 is not an integer of at least 1"),
    ("batch_size=0", "batch_size", "0 is not an integer of at least 1"),
    ("lr_horizon=0", "lr_horizon", "0 is not an integer of at least 1"),
    ("density=true", "density", "true is not a number"),
    ("density=[0.1]", "density", "[0.1] is not a number"),
    ("data.root=nowhere", "data.root", "there is no such key"),
    ("scheduler.interval.rounds=0", "scheduler.interval.rounds", "0"),
    ("scheduler.sensitivity.init_fraction=0", "scheduler.sensitivity.init_fraction", "0"),
    ("ckpt_path=taken", "ckpt_path", "taken"),
    ("ckpt_path=.", "ckpt_path", "is a folder without checkpoints/last.ckpt"),
    ("callbacks=my_file.MyCallback", "callbacks", "[my_file.MyCallback]"),
    ("callbacks=[progress]", "callbacks[0]", "'progress'"),
    ("callbacks=[no_such_file.MyCallback]", "callbacks[0].class_path", "No module named 'no_such_file'"),
    ("callbacks=[flash_pl.PDST]", "callbacks[0].class_path", "'flash_pl.PDST' is not a Callback"),
    ("given.lr=0.2", "given", "there is no such key"),
    # Names of earlier versions.
    ("method=nst", "method", "use scheduler"),
    ("average=polynomial", "average", "use round_average"),
    ("cost.values=fp16", "cost", "use wire"),
    ("scheduler.first_mask.initialise=as_drawn", "scheduler.first_mask.initialise", "first_mask.initialize"),
    ("scheduler.move.layers=keep", "scheduler.move.layers", "use scheduler.move.redistribution"),
    ("scheduler.voter=average", "scheduler.voter", "use magnitude"),
    ("scheduler.voter=aggregate", "scheduler.voter", "use magnitude_aggregate"),
    ("scheduler.voter={name: average}", "scheduler.voter", "use magnitude"),
    ("scheduler.voter.layer_budget=average", "scheduler.voter.layer_budget", "use mean"),
    (
        "scheduler.voter.layer_budget=flash_pl.server.AverageBudget",
        "scheduler.voter.layer_budget.class_path",
        "use flash_pl.server.MeanBudget",
    ),
    ("run_dir=runs/{method}", "run_dir", "use {scheduler}"),
]

# Name of the config, its content, a part of the message.
CONFIGS = [
    ("jmwts", None, "did you mean jmwst?"),
    ("data=digits", None, "one of dense, feddst"),
    ("broken.yaml", "a: [1", "'broken.yaml' is not a readable YAML file"),
    ("list.yaml", "- a", "'list.yaml' does not hold a mapping"),
    ("unknown.yaml", "scheduler: pdst\nname: x", "name: there is no such key"),
    ("old.yaml", "method: pdst\ndensity: 0.1", "method: this key was renamed; use scheduler"),
    ("old_run.yaml", "method: pdst\nscheduler: {class_path: flash_pl.schedulers.PDST}", "use scheduler"),
    (
        "nested.yaml",
        "scheduler: {name: pdst, first_mask: {initialise: as_drawn}}",
        "use scheduler.first_mask.initialize",
    ),
    ("given.yaml", "scheduler: pdst\ngiven: 5", "given: 5 is not a mapping"),
    ("nothing.yaml", "", "one of dense, "),
]


@pytest.mark.parametrize("argument, key, expected", ARGUMENTS)
def test_arguments(argument, key, expected, capsys, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    line = refusal(capsys, "jmwst", argument)
    assert line.startswith(f"{key}: ") and expected in line
    assert not (tmp_path / "runs").exists()


def test_two_arguments(capsys):
    """Each argument alone is fine, both together are not; the line names the key as the config does."""
    line = refusal(capsys, "jmwst", "trainer.backend=sparse", "trainer.compile=true")
    assert line.startswith("trainer.backend: ") and "sparse" in line and "compile" in line


@pytest.mark.parametrize("name, content, expected", CONFIGS)
def test_configs(name, content, expected, capsys, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert expected in refusal(capsys, name)


# How a checkpoint is damaged: cut after a share of it, a bit flipped, bytes added or replaced, nothing left.
DAMAGES = [("cut", draw) for draw in range(8)] + [("flip", draw) for draw in range(16)]
DAMAGES += [("add", 0), ("zeros", 0), ("text", 0), ("empty", 0)]


def damage(content: bytes, how: str, seed: int) -> bytes:
    draw = random.Random(seed)
    place = draw.randrange(len(content))
    if how == "flip":
        return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    fixed = {"add": content + b"\0", "zeros": bytes(len(content)), "text": b"x", "empty": b""}
    return content[:place] if how == "cut" else fixed[how]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a finished run."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert main(["fit", "pdst", *TINY, f"run_dir={run}"]) == 0
    return run


@pytest.mark.parametrize("how, seed", DAMAGES)
def test_checkpoints(how, seed, finished, capsys, tmp_path):
    capsys.readouterr()
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.write_bytes(damage(path.read_bytes(), how, seed))
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    for command, arguments in (("validate", [str(path)]), ("fit", ["run/config.yaml", f"ckpt_path={path}"])):
        line = refusal(capsys, *arguments, command=command)
        assert line.startswith("ckpt_path: ") and str(path) in line
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before
    # The checkpoint before it is intact, so ckpt_path=last still works, with a warning.
    assert main(["fit", "run/config.yaml", "run_dir=run", "ckpt_path=last"]) == 0
    err = capsys.readouterr().err
    assert "last.ckpt" in err and "going on from run/checkpoints/" in err


RESUMES = [
    (["data.samples=140"], "data.init_args.samples"),
    (["batch_size=4"], "data.init_args.batch_size, batch_size"),
    (["local_epochs=2"], "local_epochs"),
    (["cohort=3"], "cohort"),
    (["lr=0.2"], "lr"),
    (["seed=9"], "data.init_args.seed, seed"),
    (["model.hidden=8"], "model.init_args.hidden"),
    (["data.partition=iid"], "data.init_args.partition.class_path, data.init_args.partition.init_args.alpha"),
    (["scheduler.first_mask.distribution=erk"], "scheduler.init_args.first_mask.init_args.distribution.class_path"),
    (["aggregator=masked"], "aggregator.class_path, aggregator.init_args.by_samples"),
    (["sampler=round_robin"], "sampler.class_path"),
    (["trainer.precision=bf16-mixed"], "trainer.precision"),
    (["lr=0.2", "cohort=3"], "cohort, lr"),
    (["rounds=1"], "rounds"),
]


@pytest.mark.parametrize("arguments, keys", RESUMES)
def test_another_experiment_is_not_resumed(arguments, keys, finished, capsys):
    capsys.readouterr()
    checkpoint = finished / "checkpoints" / "last.ckpt"
    line = refusal(capsys, str(finished / "config.yaml"), f"run_dir={finished}", f"ckpt_path={checkpoint}", *arguments)
    assert line.startswith(f"{keys}: ") and "the checkpoint" in line


def idx(array) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


GOOD = [np.zeros((40, 28, 28)), np.arange(40) % 10, np.zeros((20, 28, 28)), np.arange(20) % 10]
# The file of Fashion-MNIST that is replaced, its new content, a part of the message.
IDX_FILES = [(file, lambda good: good[: len(good) // 2], "idx") for file in range(4)]
IDX_FILES += [(file, lambda good: b"", "idx") for file in range(4)]
IDX_FILES += [
    (0, lambda good: b"\1" + good[1:], "idx"),
    (0, lambda good: good[:2] + b"\x0d" + good[3:], "idx"),
    (0, lambda good: good + b"\0", "idx"),
    (0, lambda good: b"<html>not found</html>", "idx"),
    (0, lambda good: idx(np.zeros((40, 20, 20))), "(20, 20)"),
    (0, lambda good: idx(np.zeros((39, 28, 28))), "40 labels for 39 samples"),
    (0, lambda good: idx(np.zeros((40, 28))), "3 dimensions"),
    (0, lambda good: good[:4] + b"\xff" * 4 + good[8:], "4294967295 samples"),
    (1, lambda good: idx(np.arange(40)), "label 10 of sample 10"),
    (1, lambda good: idx(np.zeros((40, 2))), "1 dimension"),
    (2, lambda good: idx(np.zeros((0, 28, 28))), "20 labels for 0 samples"),
    (3, lambda good: idx(np.full(20, 10)), "label 10 of sample 0"),
]


@pytest.mark.parametrize("file, change, expected", IDX_FILES)
def test_fashion_mnist_files(file, change, expected, capsys, tmp_path):
    (tmp_path / "root").mkdir()
    for number, (name, array) in enumerate(zip(FILES, GOOD, strict=True)):
        (tmp_path / "root" / name).write_bytes(change(idx(array)) if number == file else idx(array))
    line = refusal(capsys, "pdst", "data=fashion_mnist", "data.root=root", "clients=4", "cohort=2")
    assert "FashionMNIST" in line and "root" in line and "damaged" in line and expected in line
    assert FILES[file] in line or FILES[file + 1] in line  # images and labels belong together


PACKED = [
    lambda good: good[:-9],
    lambda good: good[:-20] + bytes(byte ^ 255 for byte in good[-20:-9]) + good[-9:],
    lambda good: b"no gzip",
]


@pytest.mark.parametrize("change", PACKED)
def test_packed_files(change, capsys, tmp_path):
    (tmp_path / "root").mkdir()
    for name, array in zip(FILES, GOOD, strict=True):
        (tmp_path / "root" / f"{name}.gz").write_bytes(change(gzip.compress(idx(array))))
    assert "damaged" in refusal(capsys, "pdst", "data=fashion_mnist", "data.root=root", "clients=4", "cohort=2")


WRITER = {"x": [[0.5] * 784] * 2, "y": [1, 2]}
# LEAF's JSON, a part of the message.
FEMNIST_FILES = [
    ("{", "Expecting property name"),
    ("[]", "list indices"),
    ("{}", "user_data"),
    (json.dumps({"user_data": {}}), "damaged"),
    (json.dumps({"user_data": {"a": {"x": WRITER["x"]}}}), "'y'"),
    (json.dumps({"user_data": {"a": WRITER | {"y": [1, 62]}}}), "label 62 of sample 1"),
    (json.dumps({"user_data": {"a": WRITER | {"y": [1]}}}), "1 labels for 2 samples"),
    (json.dumps({"user_data": {"a": WRITER | {"x": [[0.5] * 783] * 2}}}), "783 pixels"),
    (json.dumps({"user_data": {"a": WRITER | {"x": [[None] * 784] * 2}}}), "damaged"),
    (json.dumps({"user_data": {"a": WRITER | {"x": [[float("nan")] * 784] * 2}}}), "finite"),
]


@pytest.mark.parametrize("content, expected", FEMNIST_FILES)
def test_femnist_files(content, expected, capsys, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "root" / split).mkdir(parents=True)
        (tmp_path / "root" / split / "all.json").write_text(content)
    line = refusal(capsys, "pdst", "data=femnist", "data.root=root", "clients=1", "cohort=1")
    assert "FEMNIST" in line and "root" in line and "damaged" in line and expected in line


# The six clients' budgets, a part of the message.
BUDGETS = [
    ("", "client,density"),
    ("client,density\n", "fleet.csv"),
    ("client;density\n0;0.2\n", "line 2"),
    ("client,density\n0,high\n", "line 2"),
    ("client,density\n0,0.2\n0,0.2\n", "line 3"),
    ("client,density\n0,1.5\n", "line 2"),
    ("client,density\n0,0.2\n1,0.2\n", "0 to 5"),
    ("client,density\n" + "".join(f"{client},0.1\n" for client in range(6)), "0.2"),
    ("client,density\n0,0.2,0.3,x\n1\n", "line 3"),
]


@pytest.mark.parametrize("content, expected", BUDGETS)
def test_budget_files(content, expected, capsys, tmp_path):
    (tmp_path / "fleet.csv").write_text(content)
    line = refusal(capsys, "hetero_spdst", *TINY, "budget=file", "budget.path=fleet.csv")
    assert line.startswith("budget") and expected in line


TRACES = [
    ("", "2 rounds"),
    ("0 1\n", "2 rounds"),
    ("0 1\n0 six\n", "line 2"),
    ("0 0\n1 2\n", "line 1"),
    ("1 01\n1 2\n", "line 1"),
    ("0 -1\n1 2\n", "line 1"),
    ("0 1\n1 6\n", "0 to 5"),
]


@pytest.mark.parametrize("content, expected", TRACES)
def test_trace_files(content, expected, capsys, tmp_path):
    (tmp_path / "trace.txt").write_text(content)
    line = refusal(capsys, "pdst", *TINY, "sampler=trace", "sampler.path=trace.txt")
    assert line.startswith("sampler.path: ") and "trace.txt" in line and expected in line
