"""The report, from records whose metrics are known."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes

from maskrcnn.ablation import plots
from maskrcnn.ablation.claims import Claim, Verdict, claims
from maskrcnn.ablation.examples import coloured, picture_of
from maskrcnn.ablation.grid import Table, available, read_table
from maskrcnn.ablation.plot import OPERATOR_COLOURS, Plot
from maskrcnn.ablation.report import write_report
from maskrcnn.ablation.run import Runner
from maskrcnn.ablation.summary import differences, grid_rows, stride_of
from maskrcnn.config.compose import compose_config
from maskrcnn.errors import UserError

TABLES = Path(__file__).resolve().parents[2] / "configs" / "tables"
AP = {
    ("16", "align"): 30.0,
    ("16", "warp"): 26.5,
    ("16", "pool"): 26.0,
    ("32", "align"): 20.0,
    ("32", "warp"): 12.0,
}
AP |= {("32", "pool"): 12.0}
EDGES = [0, 16, 24, 32, 40, 48, 64, 80]


@pytest.fixture(scope="module")
def table() -> Table:
    return read_table(TABLES, "strides", "shapes")


@pytest.fixture(scope="module")
def report(table: Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on `records`."""
    folder = tmp_path_factory.mktemp("report")
    write_report(table, records(), folder)
    return folder


@pytest.fixture
def unplotted(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that read numbers and sentences: drawing takes nine tenths of a report's time."""
    monkeypatch.setattr(plots, "finished", lambda name, caption, panel: Plot(name, caption, "<svg/>"))


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ({"last_stage": 4, "dilated": False}, "16"),
        ({"last_stage": 5, "dilated": False}, "32"),
        ({"last_stage": 5, "dilated": True}, "16"),
        ({"name": "tf_efficientnet_lite0", "last_stride": 16}, "16"),
        ({"arch": "mobilenet_v2", "last_stride": 32}, "32"),
    ],
)
def test_the_stride_of_a_table_without_that_axis_is_its_backbones(
    backbone: dict[str, Any], expected: str
) -> None:
    record = made_up("16", "align", 0)
    del record["axes"]["stride"]
    record["manifest"]["config"]["model"]["backbone"] = backbone
    assert stride_of(record) == expected


def made_up(stride: str, operator: str, seed: int) -> dict[str, Any]:
    """A record whose AP is AP[...] + seed, with a box AP 5 above; the seeds differ by 1 and the pairs by 0.1."""
    wobble = 0.1 * seed if operator == "align" else 0.0
    ap = AP[stride, operator] + seed + wobble
    six = {"AP": ap, "AP50": ap + 20, "AP75": ap - 2, "APs": ap / 2, "APm": ap, "APl": None}
    operator_node = {
        "_target_": "maskrcnn_ops.RoIOp",
        "box_rounding": "none" if operator == "align" else "round",
    }
    config = {
        "roi_op": operator_node,
        "model": {
            "pyramid": {"_target_": "SingleMap"},
            "backbone": {"last_stage": 4 if stride == "16" else 5},
        },
        "categories": [{"id": 1, "name": "a"}],
    }
    manifest = {
        "config": config,
        "commit": "abc",
        "versions": {"torch": "2"},
        "machine": "m",
        "seconds": 60.0,
    }
    return {
        "id": f"{stride}-{operator}-seed{seed}",
        "axes": {"stride": stride, "roi_op": operator},
        "seed": seed,
        "overrides": [f"roi_op={operator}"],
        "metrics": {"segm": six, "bbox": {k: None if v is None else v + 5 for k, v in six.items()}},
        "by_iou": {k: {"all": [ap + 20 - 4 * t for t in range(10)]} for k in ("segm", "bbox")},
        "by_size": {"edges": EDGES, "objects": [9, *[10] * 7], "segm": [ap] * 8, "bbox": [None, *[ap] * 7]},
        "per_image": {"ids": [1, 2, 3], "segm": [ap, ap + 1, None], "bbox": [ap, ap, ap]},
        "curve": [[10, 2.0], [20, 1.0]],
        "network_scale": 1.0,
        "examples": [{"image": {"file_name": "none.png"}, "detections": []}],
        "tested_with": {"pool": {"segm": {"AP": 1.0}}} if operator == "align" else {},
        "manifest": {**manifest, "peak_memory_mib": 1000},
    }


def records(seeds: int = 3) -> list[dict[str, Any]]:
    return [made_up(stride, operator, seed) for stride, operator in AP for seed in range(seeds)]


def test_runs_csv_has_the_columns_that_scripts_rely_on(report: Path) -> None:
    rows = list(csv.DictReader((report / "runs.csv").open()))
    names = "roi_op,stride,seed,box_rounding,bbox_AP,bbox_AP50,bbox_AP75,segm_AP,segm_AP50,segm_AP75,segm_APs,segm_APm"
    assert list(rows[0]) == [*names.split(","), "segm_APl", "seconds"]
    assert len(rows) == 18
    row = next(r for r in rows if (r["roi_op"], r["stride"], r["seed"]) == ("pool", "32", "2"))
    assert (row["segm_AP"], row["bbox_AP"], row["segm_APl"], row["seconds"]) == (
        "14.000",
        "19.000",
        "",
        "60.0",
    )
    assert row["box_rounding"] == "round"


def test_differences_are_paired_and_carry_the_papers(table: Table) -> None:
    found = {
        (d.axes["stride"], d.second): d
        for d in differences(table, grid_rows(table, records()), ["segm_AP"])
        if d.first == "align"
    }
    pool = found["16", "pool"]
    assert pool.by_seed.mean == pytest.approx(4.1)  # 4.0, 4.1, 4.2
    assert pool.by_seed.half == pytest.approx(4.303 * 0.1 / 3**0.5, abs=1e-3)
    assert pool.by_image is not None
    assert pool.by_image.mean == pytest.approx(4.1)
    assert pool.by_image.count == 2
    assert pool.paper == pytest.approx(3.4)
    assert found["32", "warp"].paper is None


def by_text(table: Table, made: list[dict[str, Any]]) -> dict[str, Claim]:
    return {claim.claim: claim for claim in claims(table, grid_rows(table, made))}


def test_the_report_states_the_claims_with_their_verdicts(table: Table, report: Path) -> None:
    text = (report / "report.md").read_text()
    assert "| align − pool > 0 in mask AP at stride 16 | +4.1 [+3.9, +4.3] | +3.4 | yes |" in text
    assert "| 16 | align | 3 | 31.1 ± " in text
    assert "| 32 | warp | mask AP | 13.0 ± 2.5 | – |" in text
    found = by_text(table, records())
    share = found["the share of align's mask AP that pool loses is larger at stride 32 than at 16"]
    assert share.here.startswith("0.38 against 0.13")
    assert (share.paper, share.verdict) == ("0.24 against 0.11", Verdict.HOLDS)
    near = found["|warp − pool| is below a quarter of align − pool in mask AP at stride 16"]
    assert near.here.startswith("warp − pool +0.5")
    assert (near.paper, near.verdict) == ("+0.2 and +3.4", Verdict.HOLDS)


def test_claims_on_points_detail_and_small_objects_have_verdicts(table: Table) -> None:
    made = records()
    for record in made:
        metrics = record["metrics"]["segm"]
        if record["axes"] == {"stride": "32", "roi_op": "align"}:
            metrics["AP75"] += 3 + 0.1 * record["seed"]
        if record["axes"]["roi_op"] == "align":
            metrics["APs"] -= 1.03
    found = by_text(table, made)

    def here(text: str, verdict: Verdict) -> str:
        claim = found[f"align − pool {text}"]
        assert claim.verdict is verdict
        return claim.here

    # 4.0, 4.1, 4.2 at 16 and 8.0, 8.1, 8.2 at 32; AP75 3.0, 3.1, 3.2 above that.
    points = "(points) is larger at stride 32 than at 16"
    assert here(f"in mask AP {points}", Verdict.HOLDS).startswith("+8.1 against +4.1, difference +4.0")
    assert here(f"in mask AP75 {points}", Verdict.HOLDS).startswith("+11.2 against +4.1")
    detail = "is larger in mask AP75 than in mask AP50 at stride"
    assert here(f"{detail} 16", Verdict.OPEN).startswith("+4.1 against +4.1")
    assert here(f"{detail} 32", Verdict.HOLDS).startswith("+11.2 against +8.1, difference +3.1")
    # Half of 4.1 and of 8.1, less 1.03.
    small = "is larger in mask AP of small (below 32 px) than of medium objects (32 to 96 px) at stride"
    assert here(f"{small} 16", Verdict.FAILS).startswith("+1.0 against +4.1")
    assert here(f"{small} 32", Verdict.FAILS).startswith("+3.0 against +8.1")


def test_the_result_comes_first_and_the_tables_are_folded(report: Path) -> None:
    """Picture, sentences with the means and the paper's, plots, claims, tables: in both forms."""
    for name in ("report.md", "report.html"):
        text = (report / name).read_text()
        parts = [
            "AP on shapes",
            "+4.1 [+3.9, +4.3]",
            "IoU threshold",
            "Training loss",
            "difference +4.0",
            "<details",
        ]
        places = [text.index(part) for part in parts]
        assert places == sorted(places)
        assert text.count("<details") == text.count("</details>") >= 6
    first = (report / "report.md").read_text().split("Table strides")[0]
    # Align - pool here and in the paper; the share lost (4/30, 4.1/31.1, 4.2/32.2); warp - pool here and in the paper.
    for number in ("+4.1", "+8.1", "+3.4", "+7.3", "13 ± 0 %", "+0.5", "+0.2"):
        assert number in first


def test_every_line_of_a_markdown_table_has_the_columns_of_its_header(report: Path) -> None:
    """A claim holds |warp − pool|, whose bars must not be read as columns."""
    blocks = re.findall(r"(?:^\|.*\n)+", (report / "report.md").read_text(), re.M)
    assert len(blocks) >= 6
    for block in blocks:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(columns) == 1


def test_an_operator_has_one_colour_in_every_plot(report: Path) -> None:
    for path in (report / "plots").glob("*.svg"):
        text = path.read_text()
        assert OPERATOR_COLOURS["pool"] in text
        own = ("size_segm.svg", "stride_gain.svg")  # of gains over the others
        assert (OPERATOR_COLOURS["align"] in text) != (path.name in own)


def test_the_differences_of_single_runs_are_drawn_with_the_mean_that_their_interval_is_of(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "FEW_LINES", 1)
    original = Axes.barh

    def barh(axes: Axes, names: list[str], means: list[float], xerr: list[float], **rest: Any) -> Any:
        drawn.append((means, xerr))
        return original(axes, names, means, xerr=xerr, **rest)

    monkeypatch.setattr(Axes, "barh", barh)
    one = records(1)
    for record in one:
        if record["axes"]["roi_op"] == "pool":
            record["per_image"]["segm"] = [v and v - 1 for v in record["per_image"]["segm"]]
    single = plots.gains(table, grid_rows(table, one), "segm")
    several = plots.gains(table, grid_rows(table, records()), "segm")
    assert single is not None
    assert several is not None
    assert "within images" in single.caption
    assert "within images" not in several.caption
    (single_means, _), (several_means, halves) = drawn
    assert single_means[:3] == pytest.approx(
        [3.5, 5.0, 1.5]
    )  # within images: align - warp, align - pool, warp - pool
    assert several_means[:3] == pytest.approx([3.6, 4.1, 0.5])
    assert halves[1] == pytest.approx(4.303 * 0.1 / 3**0.5, abs=1e-3)


@pytest.mark.usefixtures("unplotted")
def test_objects_are_counted_where_the_data_differ(table: Table, tmp_path: Path) -> None:
    write_report(table, records(), tmp_path)
    counts = "| 9 | 10 | 10 | 10 | 10 | 10 | 10 | 10 |"
    assert f"| objects |  |  {counts}" in (tmp_path / "report.md").read_text()
    made = records()
    for record in made:
        if record["axes"]["stride"] == "32":
            record["by_size"]["objects"] = [70] * 8
    write_report(table, made, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert f"| 16 | objects |  {counts}" in text
    assert "| 32 | objects |  | 70 | 70 | 70 | 70 | 70 | 70 | 70 | 70 |" in text


def test_images_of_one_name_are_shown_by_their_content(tmp_path: Path) -> None:
    """Runs on other data have other images, of other sizes, under the same names."""
    table = replace(read_table(TABLES, "sizes", "shapes"), pictures=True)
    runner = Runner(table, tmp_path / "out", (), 1, 1)
    kept = []
    for side in (8, 16):
        folder = tmp_path / f"{side}"
        folder.mkdir()
        cv2.imwrite(str(folder / "1.png"), np.full((side, side, 3), side, np.uint8))
        (example,) = runner._kept([{"image": {"file_name": "1.png"}, "detections": []}], folder)
        kept.append(cv2.imread(str(tmp_path / "out" / "examples" / picture_of(example))).shape[0])
    assert kept == [8, 16]


def test_claims_that_the_runs_contradict_do_not_hold(table: Table) -> None:
    turned = records()
    for record in turned:
        if record["axes"]["roi_op"] == "pool":
            record["metrics"]["segm"]["AP"] += 10
    found = by_text(table, turned)
    assert found["align − pool > 0 in mask AP at stride 16"].verdict is Verdict.FAILS
    near = found["|warp − pool| is below a quarter of align − pool in mask AP at stride 16"]
    assert near.verdict is Verdict.FAILS


def test_a_claim_over_several_places_takes_the_seeds_that_all_of_them_have(table: Table) -> None:
    unfinished = [r for r in records() if (r["axes"]["stride"], r["seed"]) != ("32", 2)]
    share = by_text(table, unfinished)[
        "the share of align's mask AP that pool loses is larger at stride 32 than at 16"
    ]
    # Seeds 0 and 1: 1 - 12/20 and 1 - 13/21.1; 1 - 26/30 and 1 - 27/31.1.
    assert share.here.startswith("0.39 against 0.13")
    assert share.verdict is Verdict.HOLDS


@pytest.mark.usefixtures("unplotted")
def test_one_seed_resolves_nothing(table: Table, tmp_path: Path) -> None:
    write_report(table, records(1), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| align − pool > 0 in mask AP at stride 16 | +4.0 | +3.4 | one run, not resolved |" in text


@pytest.mark.usefixtures("unplotted")
def test_plots_of_an_earlier_report_are_removed(table: Table, tmp_path: Path) -> None:
    write_report(table, records(1), tmp_path)
    assert (tmp_path / "plots" / "stride_gain.svg").exists()
    write_report(table, [r for r in records(1) if r["axes"]["stride"] == "16"], tmp_path)
    left = {path.name for path in (tmp_path / "plots").iterdir()}
    assert left == set(re.findall(r"plots/(\S+\.svg)", (tmp_path / "report.md").read_text()))
    assert "stride_gain.svg" not in left


@pytest.mark.usefixtures("unplotted")
def test_missing_runs_are_counted(table: Table, tmp_path: Path) -> None:
    write_report(table, [r for r in records() if r["axes"] != {"stride": "32", "roi_op": "warp"}], tmp_path)
    assert "1 of the 6 combinations have no finished run yet" in (tmp_path / "report.md").read_text()


def test_the_page_needs_nothing_from_elsewhere(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert page.count("<svg") >= 5
    assert not re.findall(r'(?:src|href)="(?!#)', page.replace("xlink:href", "href"))
    assert json.loads((report / "manifest.json").read_text())["runs"]["16-align-seed0"]["commit"] == "abc"
    assert r"\begin{tabular}{lrrrrrrrr}" in (report / "report.tex").read_text()


@pytest.mark.parametrize("name", available(TABLES))
def test_every_table_can_be_read_and_its_runs_have_ids_of_their_own(name: str) -> None:
    runs = read_table(TABLES, *name.rsplit("-", 1)).runs(2)
    assert len({run.id for run in runs}) == len(runs)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)


def test_a_table_without_a_file_is_named_with_those_that_have_one() -> None:
    with pytest.raises(UserError, match=r"no table=9z data=coco: .*9z-coco\.yaml .* found: .*strides-shapes"):
        read_table(TABLES, "9z", "coco")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title: t\naxes: {a: {x: [b=1]}}\nfoo: 1\n", "unknown keys"),
        ("title: t\n", "needs axes"),
        ("title: t\naxes: {a: {x: [b]}}\n", "key=value"),
        ("title: t\naxes: {a: {x: [b=1]}}\ncompare: {axis: a, of: z}\n", "not on the axes"),
        ("title: [\n", "cannot be read"),
        ("title: t\naxes: {a: {x: [b=1]}}\ncompare: {axis: a, of: x, also: [[x, z]]}\n", "a=z, which is not"),
        ("title: t\naxes: {a: {x: [b=1]}}\ncross: c\n", "cross names c"),
        ("title: t\naxes: {a: {x: [b=1]}}\nfolds: c\n", "folds names c"),
        ("title: t\naxes: {a: {x: [b=1]}}\npaper: [{where: {a: y}, segm_AP: 1}]\n", "no run of this table"),
        ("title: t\naxes: {a: {x: [b=1]}}\npaper: [{where: {q: x}, segm_AP: 1}]\n", "no run of this table"),
    ],
)
def test_a_faulty_table_is_refused_in_words(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t-s.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_table(tmp_path, "t", "s")


@pytest.mark.slow
@pytest.mark.parametrize("name", available(TABLES))
def test_every_run_of_a_table_can_be_composed(name: str) -> None:
    table = read_table(TABLES, *name.rsplit("-", 1))
    places = ["data.annotations=FILE", "data.images=DIR"] if "data=folds" in table.base else ["data.root=DIR"]
    runner = Runner(table, Path("out"), tuple(places), threads=1, nproc=1)
    for run in table.runs(1):
        compose_config("train", runner.overrides(run))
    if isinstance(table.proposals, list):
        compose_config("train", [*table.proposals, *places])


def test_sizes_of_few_objects_are_left_out(table: Table) -> None:
    row = grid_rows(table, records())[0]
    sizes = row.by_size("segm")
    assert np.isnan(sizes[0])  # nine objects
    assert np.isfinite(sizes[1:]).all()


@pytest.mark.usefixtures("unplotted")
def test_the_gain_at_each_size_has_its_interval_over_the_seeds(table: Table, tmp_path: Path) -> None:
    found = {
        (d.axes["stride"], d.first, d.second, d.metric): d.by_size
        for d in differences(table, grid_rows(table, records()), ["segm_AP", "bbox_AP"])
    }
    gains = found["16", "align", "pool", "segm_AP"]
    assert gains[0] is None  # nine objects
    assert gains[1] is not None
    assert gains[1].mean == pytest.approx(4.1)  # 4.0, 4.1, 4.2
    assert gains[1].half == pytest.approx(4.303 * 0.1 / 3**0.5, abs=1e-3)
    assert found["16", "align", "pool", "bbox_AP"][0] is None
    write_report(table, records(), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| 16 | align − pool | 16 px | – | +4.1 ± 0.2 |" in text
    assert "| objects |  |  | 9 | 10 |" in text


@pytest.mark.parametrize(
    ("pools", "verdict"),
    [
        ([26.0, 26.0, 26.0], Verdict.HOLDS),  # warp - pool 0.5, a quarter of align - pool 1
        ([26.0, 20.0, 32.0], Verdict.OPEN),
        ([20.0, 20.0, 20.0], Verdict.FAILS),  # warp - pool 6.5
    ],
)
def test_warp_is_about_pool_only_where_the_intervals_say_so(
    table: Table, pools: list[float], verdict: Verdict
) -> None:
    changed = records()
    for record in changed:
        if record["axes"] == {"stride": "16", "roi_op": "pool"}:
            record["metrics"]["segm"]["AP"] = pools[record["seed"]] + record["seed"]
    claim = "|warp − pool| is below a quarter of align − pool in mask AP at stride 16"
    assert by_text(table, changed)[claim].verdict is verdict


@pytest.mark.usefixtures("unplotted")
def test_a_difference_whose_two_intervals_disagree_is_not_resolved(table: Table, tmp_path: Path) -> None:
    turned = records()
    for record in turned:
        if record["axes"]["roi_op"] == "pool":
            record["per_image"]["segm"] = [99.0, 99.5, None]
    write_report(table, turned, tmp_path)
    line = next(
        text
        for text in (tmp_path / "report.md").read_text().splitlines()
        if text.startswith("| 16 | align − pool | mask AP |")
    )
    assert "| +4.1 ± 0.2 | −67.7 ± " in line
    assert "| no |" in line


def given_boxes(operator: str, fold: str = "0") -> dict[str, Any]:
    record = made_up("16", operator, 0)
    return {
        **record,
        "axes": {"fold": fold, "roi_op": operator},
        "by_size": {"edges": EDGES[:7], "objects": [12] * 7, "segm": [20.0] * 7, "bbox": [20.0] * 7},
        "instances": {"area": [400.0] * 12, "iou": [60.0 if operator == "pool" else 62.0] * 12},
    }


@pytest.mark.usefixtures("unplotted")
def test_a_report_in_the_middle_of_a_table_needs_no_run_to_compare_with(tmp_path: Path) -> None:
    masks = read_table(TABLES, "masks", "coco")
    write_report(masks, [given_boxes("pool")], tmp_path)
    assert "| 0 | pool | 12 | 60.00 |  |" in (tmp_path / "report.md").read_text()
    write_report(masks, [given_boxes("pool"), given_boxes("align")], tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| 0 | pool | 12 | 60.00 | +2.00 ± 0.00 |" in text
    assert "| 0 | pool | 1–2 | 12 | +2.00 ± 0.00 |" in text
    assert "| all |" not in text  # the other fold has no runs yet


@pytest.mark.usefixtures("unplotted")
def test_folds_are_also_compared_together_and_images_drawn_whole(tmp_path: Path) -> None:
    """Two objects an image; in the second fold align gains 4 instead of 2, in half of the images 0 and 8."""
    made = [given_boxes(operator, fold) for fold in "01" for operator in ("align", "pool")]
    for record in made:
        images = np.arange(12) // 2 + (100 if record["axes"]["fold"] == "1" else 0)
        record["instances"]["image"] = images.tolist()
        record["network_scale"] *= 1.01 if record["axes"]["fold"] == "1" else 1
    made[2]["instances"]["iou"] = [60.0, 60.0, 68.0, 68.0] * 3
    write_report(read_table(TABLES, "masks", "coco"), made, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "bootstrap over images, each with all its objects. " in text
    assert "| 0 | pool | 12 | 60.00 | +2.00 ± 0.00 |" in text
    assert "| all | align | 24 | 63.00 |  |" in text
    assert "Gain against stride" not in text
    found = re.search(r"\| all \| pool \| 24 \| 60\.00 \| \+3\.00 ± (\S+) \|", text)
    assert found is not None
    images = [2.0] * 6 + [0.0, 8.0] * 3
    # About 1.96 standard errors of twelve images, not of 24 objects (1.0).
    assert float(found[1]) == pytest.approx(1.96 * np.std(images) / np.sqrt(12), abs=0.15)


@pytest.mark.parametrize(
    ("overrides", "operator"),
    [(["model=r50_c4", "roi_op=warp", "roi_op.reduction=max"], "warp"), (["model=r50_fpn"], "align")],
)
@pytest.mark.usefixtures("unplotted")
def test_the_operator_of_a_row_is_the_runs_last_override(
    tmp_path: Path, overrides: list[str], operator: str
) -> None:
    table = read_table(TABLES, "2c", "coco")
    record = {**made_up("16", "align", 0), "axes": {"layer": "warp max"}, "overrides": overrides}
    write_report(table, [record], tmp_path)
    assert next(csv.DictReader((tmp_path / "runs.csv").open()))["roi_op"] == operator


def test_further_pairs_of_a_table_are_stated(table: Table) -> None:
    assert table.compare is not None
    more = replace(table, compare=replace(table.compare, also=[("warp", "pool")]))
    found = [
        (d.axes["stride"], d.first, d.second, round(d.by_seed.mean, 3))
        for d in differences(more, grid_rows(more, records()), ["segm_AP"])
    ]
    assert ("16", "warp", "pool", 0.5) in found
    assert ("32", "warp", "pool", 0.0) in found
    assert len(found) == 6


@pytest.mark.usefixtures("unplotted")
def test_runs_that_do_not_share_their_proposals_are_said_to_differ(table: Table, tmp_path: Path) -> None:
    made = records(2)
    for record in made:
        record["manifest"]["shared"] = "aaaa" if record["seed"] == 0 else "bbbb"
    write_report(table, made, tmp_path)
    words = "2 sets of proposals and starting weights, not one: aaaa (6 runs), bbbb (6 runs)"
    assert words in (tmp_path / "report.md").read_text()
    write_report(table, made[::2], tmp_path)
    assert "one set of proposals and starting weights: aaaa" in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("unplotted")
def test_runs_of_a_row_that_differ_in_their_settings_are_listed(table: Table, tmp_path: Path) -> None:
    made = records()
    for record in made:
        config = record["manifest"]["config"]
        config |= {
            "seed": record["seed"],
            "run_dir": str(record["seed"]),
            "data": {"num_workers": record["seed"]},
        }
        if record["axes"]["roi_op"] == "pool":
            config["schedule"] = {"lr": 0.1}  # of a whole row: what its axes say
    write_report(table, made, tmp_path)
    assert "differ in more" not in (tmp_path / "report.md").read_text()
    made[0]["manifest"]["config"]["schedule"] = {"steps": 5}
    write_report(table, made, tmp_path)
    words = "runs of one row differ in more than their seed: schedule.steps (5 or missing)"
    assert words in (tmp_path / "report.md").read_text()


def test_claims_say_where_they_hold(table: Table) -> None:
    sizes = read_table(TABLES, "sizes", "shapes")
    found = []
    for place, operator in product(sizes.axes["diameter"], ("align", "pool")):
        record = made_up("16", operator, 0)
        found.append({**record, "axes": {"diameter": place, "roi_op": operator}})
    said = by_text(sizes, found)
    assert "align − pool > 0 in mask AP at diameter 16 to 32 px" in said
    assert "align − pool > 0 in mask AP at diameter 64 to 128 px" in said


@pytest.mark.usefixtures("unplotted")
def test_the_report_says_what_was_trained(table: Table, tmp_path: Path) -> None:
    made = records()
    for record in made:
        record["manifest"]["config"]["schedule"] = {"steps": 300, "optimizer": "sgd", "lr": 0.02}
        record["manifest"]["config"]["model"]["backbone"]["frozen_stages"] = 2 * (record["seed"] > 0)
    made[0]["manifest"]["config"]["schedule"]["steps"] = 200
    write_report(table, made, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "- first run: tools/train.py roi_op=align, with" in text
    assert "- backbone: frozen_stages 0 / 2, last_stage 4 / 5\n" in text
    assert "- training: steps 200 / 300, optimizer sgd, lr 0.02\n" in text
    rpn = (
        "precomputed with one RPN that is trained separately (experiment=ablation_shapes_rpn); all runs start"
    )
    assert f"- proposals: {rpn}" in text
    assert "- validation images: 3\n" in text
    write_report(replace(table, proposals="ground_truth"), made, tmp_path)
    assert "- proposals: ground-truth boxes\n" in (tmp_path / "report.md").read_text()
    write_report(replace(table, proposals=None), made, tmp_path)
    assert "- proposals: from the model's own RPN" in (tmp_path / "report.md").read_text()


def test_only_what_is_compared_with_all_has_a_share_to_lose(table: Table) -> None:
    assert table.compare is not None
    more = replace(table, compare=replace(table.compare, also=[("warp", "pool")]))
    found = differences(more, grid_rows(more, records()), ["segm_AP"])
    assert {(d.first, d.share is None) for d in found} == {("align", False), ("warp", True)}


def test_an_object_has_one_colour_in_all_pictures_of_its_image() -> None:
    known: list[list[float]] = []
    boxes = {
        "a": [0.0, 0, 10, 10],
        "b": [20.0, 0, 10, 10],
        "near a": [1.0, 0, 10, 10],
        "new": [50.0, 50, 5, 5],
    }

    def seen(*names: str) -> dict[str, int]:
        detections = [{"bbox": boxes[n], "score": 0.9 - 0.1 * i, "name": n} for i, n in enumerate(names)]
        return {d["name"]: d["colour"] for d in coloured(detections, known)}

    assert seen("a", "b") == {"a": 0, "b": 1}
    assert seen("b", "near a") == {"b": 1, "near a": 0}
    assert seen("a", "near a", "new") == {"a": 0, "near a": 2, "new": 3}
    assert len(known) == 4
