"""The SLO file, and that what is made of it lies in ops/ as it would be made now."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraudgate.cli import main
from fraudgate.commands.ops import FILES
from fraudgate.errors import ConfigError
from fraudgate.ops.slo import Slo

ROOT = Path(__file__).resolve().parents[2]
SLO_FILE = ROOT / "ops" / "slo.toml"


@pytest.mark.parametrize("verb", FILES)
def test_the_files_in_ops_are_up_to_date(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", verb, "--slo", str(SLO_FILE), "--out", str(tmp_path)]) == 0
    name = FILES[verb][0]
    assert capsys.readouterr().out == f"{tmp_path / name}\n"
    assert (ROOT / "ops" / name).read_text() == (tmp_path / name).read_text(), "run make ops"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("objective = 0.999 ", "objective = 1.0 ", r"`float` < 1.0 - at `\$.latency.objective`"),
        ("window_days = 30", "window_weeks = 4", "unknown field `window_weeks`"),
        ("within_ms = 50 ", "within_ms = 51 ", "within_ms = 51 is no bucket bound: .*, 50, "),
        ('"conflict"', "'\"} or vector(1)'", "matching regex"),
        ("[latency]", "[latency", "is not TOML"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(old: str, new: str, said: str, tmp_path: Path) -> None:
    path, text = tmp_path / "slo.toml", SLO_FILE.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=f"slo.toml.*{said}"):
        Slo.load(path)


def test_a_missing_file_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops", "alerts", "--slo", "no/such.toml"]) == 2
    assert "no/such.toml: cannot be read" in capsys.readouterr().err


def test_each_objective_pages_at_both_burn_rates(tmp_path: Path) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(SLO_FILE.read_text().replace("objective = 0.9995", "objective = 0.99").replace("= 50 ", "= 20 "))
    main(["ops", "alerts", "--slo", str(path), "--out", str(tmp_path)])
    groups = yaml.safe_load((tmp_path / FILES["alerts"][0]).read_text())["groups"]
    pages = [rule for rule in groups[0]["rules"] if "alert" in rule]
    assert [(page["alert"], page["labels"]["burn"]) for page in pages] == [
        ("FraudgateLatencyBurn", "14.4x"),
        ("FraudgateLatencyBurn", "6x"),
        ("FraudgateAvailabilityBurn", "14.4x"),
        ("FraudgateAvailabilityBurn", "6x"),
    ]
    assert "ratio_rate6h > 6 * 0.01 and" in pages[-1]["expr"]
    assert 'le="0.02"' in groups[0]["rules"][0]["expr"]


# -- the dashboard -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads((ROOT / "ops" / FILES["dashboard"][0]).read_text())["panels"]
    return panels


def test_panels_lie_side_by_side(panels: list[dict[str, Any]]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        xs, ys = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in xs for y in ys}
        assert xs.stop <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_panels_have_what_grafana_asks_for(panels: list[dict[str, Any]]) -> None:
    graphs = [panel for panel in panels if panel["type"] == "timeseries"]
    assert [panel["type"] for panel in panels if panel not in graphs] == ["row"] * 4
    for graph in graphs:
        assert graph["title"]
        assert graph["fieldConfig"]["defaults"]["unit"]
        assert [target["refId"] for target in graph["targets"]] == [chr(65 + n) for n in range(len(graph["targets"]))]
        assert all("$job" in target["expr"] and target["legendFormat"] for target in graph["targets"]), graph["title"]
