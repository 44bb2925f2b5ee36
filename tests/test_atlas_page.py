"""The atlas's page and table: counts by hand, escaping, what failed."""

import json
import re

import pytest
from test_page import browser  # noqa: F401

from atlas import page
from engine.rows import BadInput


def claim(name, holds, low=1.0, high=3.0, **more):
    return {
        "id": name,
        "text": f"claim {name}",
        "group": "math",
        "from": "few",
        "to": "many",
        "expect": "higher",
        "holds": holds,
        "before": 10.0,
        "after": 12.0,
        "difference": 2.0,
        "low": low,
        "high": high,
        "interval": f"+2.0 [{low:.1f}, {high:.1f}]",
        "n": 300,
        "seeds": ["0"],
        "per_seed": {"0": 2.0},
        "verdict": "words",
    } | more


FAILED = {name: claim("F", None)[name] for name in ("id", "text", "group", "from", "to", "expect")}
FAILED |= {"holds": None, "failed": "many: <out of memory>"}
CLAIMS = [
    claim("A", True),
    claim("B", None, low=-1.0),
    claim("C", False, low=-4.0, high=-1.0),
    claim("D", None, low=-9.0, expect="same", because="it is small"),
    claim("E", False, expect="same", seeds=["0", "1"], per_seed={"0": 1.0, "1": 3.0}),
    FAILED,
    claim("G", None, n=1),
]


def write_result(out, name, claims, paper="s1 (2501.19393)", **more):
    arm = {"kind": "rows", "commands": "cp <x> $OUT", "seconds": {"0": 5}, "failed": {}}
    result = {
        "study": name,
        "title": "a <title>",
        "paper": paper,
        "notes": ["a note"],
        "settings": {"SPLIT": "held_out"},
        "given": {"SFT": "--epochs 2"},
        "seeds": [0],
        "claims": claims,
        "arms": [arm | {"name": "few"}, arm | {"name": "many", "failed": {"0": "<why>"}}],
        "runs": {"few": {"0": {"math": {"accuracy": 10.0, "n_thinking_tokens": None}}}},
        "figures": [],
        "seconds": 130,
        "commit": "abc",
        "date": "2026-12-01",
    }
    result["runs"]["few"]["0"]["math"]["truncated"] = 0.0
    (out / "results").mkdir(parents=True, exist_ok=True)
    (out / "results" / f"{name}.json").write_text(json.dumps(result | more))


@pytest.fixture
def out(tmp_path):
    write_result(tmp_path, "one", CLAIMS)
    write_result(tmp_path, "two", CLAIMS[:1], paper="LIMO (2502.03387, §3), s1 (2501.19393)")
    look = {"study": "one", "claim": "A", "inputs": ["k"]}
    (tmp_path / "looks.jsonl").write_text((json.dumps(look) + "\n") * 9)
    return tmp_path


def test_verdicts():
    assert [page.verdict_of(found) for found in CLAIMS] == [
        "as in the paper",
        "not significant here",
        "reversed here",
        "undecided here",
        "differs here",
        "failed",
        "no interval",
    ]


def test_counts_by_hand(out):
    """Eight claims of two papers, one failed: seven tested, 9 looks, 0.05 · 7 = 0.35 by chance.

    Significant are A, C, E and the A of the other study: the intervals of B and D hold 0, G has
    none. Six of the seven have one seed.
    """
    results = page.read_results(out)
    counts = page.count_verdicts(results)
    assert (counts["claims"], counts["studies"], counts["papers"]) == (8, 2, 2)
    assert counts["as in the paper"] == 2 and counts["failed"] == 1 and counts["no interval"] == 1
    text = page.care_sentence(results, 9)
    assert "7 claims were tested, 6 of them with one seed" in text and "looked at 9 times" in text
    assert "4 differences are significant" in text and ", 0.4 would" in text


def test_the_page_has_every_claim_and_loads_nothing(out):
    page.write(str(out))
    text = (out / "atlas.html").read_text()
    assert "name=viewport" in text and not re.search(r"(?:src|href)=[\"']?http|@[A-Z]+@", text)
    assert text.count("<tr><td><details>") == 8
    for words in ("claim C", "reversed here", "it is small", "seed 1: +3.0", "2 min of one core"):
        assert words in text
    assert 'SFT="--epochs 2" bash recipes/study.sh one' in text.replace("&quot;", '"')
    assert "&lt;out of memory&gt;" in text and "<out" not in text and "a <title>" not in text
    assert "cp &lt;x&gt; $OUT" in text and "<why>" not in text


def test_dev_results_are_marked(out):
    write_result(out, "three", CLAIMS[:1], settings={"SPLIT": "dev"})
    assert "development split: three" in page.care_sentence(page.read_results(out), 9)


def test_the_table_goes_between_the_marks(out, tmp_path):
    """Twice, and all else stays as it is."""
    path = tmp_path / "RESULTS.md"
    path.write_text(f"before\n{page.MARK}\nold\n{page.MARK}\nafter\n")
    page.write(str(out), str(path))
    page.write(str(out), str(path))
    text = path.read_text()
    assert text.startswith(f"before\n{page.MARK}\n") and text.endswith(f"\n{page.MARK}\nafter\n")
    assert "old" not in text and text.count("| | claim C | **reversed here** |") == 1
    assert (
        "| | claim D. it is small | undecided here | 10.0 → 12.0, +2.0 [-9.0, 3.0] | 300, 1 |"
        in text
    )
    path.write_text("no marks")
    with pytest.raises(BadInput, match="needs two lines"):
        page.write(str(out), str(path))


def test_no_results(tmp_path):
    with pytest.raises(BadInput, match="no results of studies"):
        page.write(str(tmp_path))


@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser(browser, out, width):  # noqa: F811
    """The table scrolls, the page does not; a row opens to its seeds; nothing is asked for."""
    page.write(str(out))
    browser.events.clear()
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=width < 500,
    )
    browser.open((out / "atlas.html").as_uri())
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelector('.wide').scrollWidth") >= 44 * 16 * 0.8
    row = "[...document.querySelectorAll('td details')].find(d => d.innerText.includes('claim E'))"
    assert "seed 1" not in browser.run(f"{row}.innerText")
    browser.run(f"{row}.querySelector('summary').click()")
    assert "seed 1: +3.0" in browser.run(f"{row}.innerText")
    asked = [e for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert len(asked) == 1
    assert not [e for e in browser.events if e.get("method") == "Log.entryAdded"]
