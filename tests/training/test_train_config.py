"""The configuration: errors name field, value and fix; the template; what may change on resume."""

import re

import pytest
import yaml

from uqforce.errors import ConfigError
from uqforce.training import TrainConfig, template
from uqforce.training.config import config_hash, fixed_fields
from uqforce.training.config_sections import LossConfig, ModelSection
from uqforce.training.methods import METHODS
from uqforce.training.template import USUAL

MINIMAL = {"data": {"train": "train.xyz"}, "model": {"r_max": 5.0}}


def with_field(dotted: str, value) -> dict:
    values = {section: dict(entries) for section, entries in MINIMAL.items()}
    *sections, name = dotted.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
    target[name] = value
    return values


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("optimizer.lr", -1.0, r"optimizer\.lr: -1\.0: .*greater than 0.*learning rate"),
        ("optimizer.learn_rate", 0.1, r"optimizer\.learn_rate: 0\.1: no such field"),
        ("epocs", 3, r"epocs: 3: no such field, did you mean 'epochs'"),
        ("optimizer.kind", "sgd", r"optimizer\.kind: 'sgd': .*'amsgrad' or 'adamw'"),
        ("optimizer.betas", [0.9, 1.0], r"optimizer\.betas: \[0\.9, 1\.0\]: both must be in \[0, 1\)"),
        ("batch_size", 0, r"batch_size: 0: .*greater than or equal to 1"),
        ("epochs", "many", r"epochs: 'many': .*integer"),
        ("ema", 1.0, r"ema: 1\.0: .*less than 1"),
        ("model.num_layer", 3, r"model\.num_layer: 3: no such field, did you mean 'num_layers'"),
        ("model.preset", "XXL", r"model\.preset: 'XXL': .*'S'"),
        ("model.num_layers", 0, r"model\.num_layers: 0: .*greater than or equal to 1"),
        ("data.keys", {"energies": "E"}, r"data\.keys\.energies.*'energy'"),
        ("data.train", "${UQFORCE_NO_SUCH}/a.xyz", r"data\.train: .*UQFORCE_NO_SUCH is not set"),
        ("data.train", 3, r"data\.train: 3: .*list.*training frames"),
        ("loss.forces.kind", "mae", r"loss\.forces\.kind: 'mae'"),
        ("loss.stress.kind", "likelihood", r"loss\.stress\.kind: a likelihood .*model\.noise: none lacks"),
        ("loss.joint", True, r"joint: true is a likelihood: set energy\.kind"),
        ("loss", {p: {"weight": 0} for p in ("energy", "forces", "stress")}, "all weights are 0"),
        ("loss.energy.kind", "likelihood", r"loss\.energy\.kind.*model\.noise"),
        ("uncertainty", "dreams", r"uncertainty: 'dreams': .*'ensemble'"),
    ],
)
def test_errors_name_the_field_the_value_and_the_fix(field, value, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.parse(with_field(field, value))


@pytest.mark.parametrize(
    "given, weights",
    [
        ({}, [1, 100, 0]),
        ({"forces": {}}, [1, 100, 0]),
        ({"forces": {"kind": "huber", "delta": 0.02}}, [1, 100, 0]),
        ({"forces": {"kind": "huber", "weight": 3.0}}, [1, 3, 0]),
        ({"energy": {"kind": "huber"}, "stress": {"kind": "huber"}}, [1, 100, 1]),
        ({"energy": {"kind": "likelihood"}, "forces": {"kind": "likelihood"}}, [1, 1, 0]),
        ({"forces": {"kind": "marginal"}}, [1, 1, 0]),
    ],
)
def test_a_loss_whose_kind_alone_is_given_keeps_the_weight_of_its_kind(given, weights):
    loss = LossConfig.model_validate(given)
    assert [loss.energy.weight, loss.forces.weight, loss.stress.weight] == weights


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(ConfigError) as error:
        TrainConfig.parse({"data": {"train": 3}, "model": {}, "clip": -1})
    for name in ("data.train", "model.r_max", "clip"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    "text, message", [("a: [", "not valid YAML"), ("- 1", "list"), (None, "no such file")]
)
def test_files_that_are_no_configuration(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        TrainConfig.load(path)


def test_paths_may_hold_environment_variables(monkeypatch):
    monkeypatch.setenv("UQFORCE_TEST_DIR", "/somewhere")
    config = TrainConfig.parse(with_field("data.test", {"hot": "${UQFORCE_TEST_DIR}/hot.xyz"}))
    assert config.data.test["hot"] == ["/somewhere/hot.xyz"]


def test_the_template_is_every_field_with_its_default():
    """The fields that `uncertainty` sets stand in comments."""
    assert TrainConfig.parse(yaml.safe_load(template(full=True))) == TrainConfig.parse(MINIMAL)
    text = re.sub(r"# (\w+: \S+)\n", r"\1\n", template(full=True))
    text = re.sub(r"(?m)^  # ((?:energy|forces):|  \w+: \S+)$", r"  \1", text)  # sections of the loss
    values = yaml.safe_load(text)
    config = TrainConfig.parse(values)
    assert config == TrainConfig.parse(MINIMAL)
    dumped = config.model_dump(mode="json")

    def names(entries):
        return {key: names(value) for key, value in entries.items()} if isinstance(entries, dict) else None

    assert names(values) == names(dumped)
    comments = template(full=True)
    for section in (TrainConfig, ModelSection):
        for field in section.model_fields.values():
            if field.description:
                assert field.description.split()[0] in comments


def test_the_short_template_is_what_one_usually_sets():
    text = template()
    assert TrainConfig.parse(yaml.safe_load(text)) == TrainConfig.parse(MINIMAL)
    assert len(text.splitlines()) < 80 and all(f"{name.split('.')[-1]}: " in text for name in USUAL)


def test_every_field_has_a_description():
    def check(section, path):
        for name, field in section.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                check(field.annotation, f"{path}{name}.")
            else:
                assert field.description, f"{path}{name} has no description"

    check(TrainConfig, "")


def test_a_preset_with_an_override():
    section = TrainConfig.parse({**MINIMAL, "model": {"r_max": 5.0, "preset": "M", "num_layers": 3}}).model
    model = section.resolve(["H"], avg_num_neighbors=7.0, scales=0.5, shifts={"H": -13.0})
    assert (model.num_layers, model.num_features, model.parity) == (3, [128, 64, 32], False)
    assert (model.avg_num_neighbors, model.per_type_energy_scales) == (7.0, 0.5)
    assert model.per_type_energy_shifts == {"H": -13.0}


def test_a_wrong_model_is_named():
    section = TrainConfig.parse(
        {**MINIMAL, "model": {"r_max": 5.0, "l_max": 2, "num_features": [8, 4]}}
    ).model
    with pytest.raises(ConfigError, match=r"model: num_features \[8, 4\] must be .* 3"):
        section.resolve(["H"], avg_num_neighbors=7.0, scales=0.5, shifts={"H": -13.0})


@pytest.mark.parametrize(
    "word, field, value",
    [
        ("coherent", "model.noise", "white"),
        ("coherent-total", "model.noise", "local"),
        ("white", "model.noise", "total"),
        ("heads", "model.heads", 1),
        ("bayes", "sampler", None),
        ("dropout", "model.dropout", 0.0),
    ],
)
def test_what_makes_a_method_what_it_is(word, field, value):
    with pytest.raises(ConfigError, match=f"uncertainty: {word} and {field}: {value} contradict"):
        TrainConfig.parse({**with_field(field, value), "uncertainty": word})


@pytest.mark.parametrize(
    "field, value, free",
    [
        ("epochs", 7, True),
        ("max_minutes", 1.0, True),
        ("threads", 2, True),
        ("output", "elsewhere", True),
        ("checkpoint.every_steps", 2, True),
        ("optimizer.lr", 0.02, False),
        ("batch_size", 6, False),
        ("model.num_layers", 3, False),
        ("loss.forces.weight", 3.0, False),
        ("data.isolated_energies", {"H": -13.6}, False),
    ],
)
def test_what_may_change_on_resume(field, value, free):
    before, after = TrainConfig.parse(MINIMAL), TrainConfig.parse(with_field(field, value))
    assert (config_hash(before) == config_hash(after)) is free


def test_epochs_are_not_free_where_they_are_the_cosines_length():
    def config(epochs, horizon=None):
        return TrainConfig.parse(
            {**MINIMAL, "epochs": epochs, "schedule": {"kind": "cosine", "horizon": horizon}}
        )

    assert fixed_fields(config(10))["schedule.horizon"] == 10
    assert config_hash(config(10)) != config_hash(config(20))
    assert config_hash(config(10, 30)) == config_hash(config(20, 30))


@pytest.mark.parametrize("word", METHODS)
def test_a_word_sets_what_is_not_given(word):
    """and every word written down means itself again."""
    config = TrainConfig.parse({**MINIMAL, "uncertainty": word})
    for name, value in dict(flat(METHODS[word].defaults)).items():
        assert name == "sampler" or fixed_fields(config)[name] == value
    assert (config.sampler is not None) == (word == "bayes")
    assert TrainConfig.parse(config.model_dump(mode="json")) == config
    assert (
        TrainConfig.parse(
            yaml.safe_load(template(full=True).replace("uncertainty: none", f"uncertainty: {word}"))
        )
        == config
    )


def flat(values: dict, prefix: str = ""):
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_given_fields_win_over_the_word():
    assert TrainConfig.parse({**MINIMAL, "uncertainty": "ensemble", "members": 7}).members == 7


def test_a_field_that_contradicts_the_word_is_refused():
    with pytest.raises(ConfigError, match="uncertainty: ensemble and members: 1 contradict each other"):
        TrainConfig.parse({**MINIMAL, "uncertainty": "ensemble", "members": 1})


def test_the_word_itself_may_change_on_resume():
    word, fields = (
        {**MINIMAL, "uncertainty": "ensemble"},
        {**MINIMAL, "members": METHODS["ensemble"].defaults["members"]},
    )
    assert config_hash(TrainConfig.parse(word)) == config_hash(TrainConfig.parse(fields))
