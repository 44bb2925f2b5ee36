"""The page in headless Chromium, driven over the DevTools protocol, and its sentences by hand."""

# ruff: noqa: F811  (a fixture is imported by its name, which is then an argument)

import base64
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from analysis import HOSTILE, analysed, place  # noqa: F401  (fixtures)

from report import page as page_file
from report.runs import Run
from report.study import Models, Study

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]


class Browser:
    """Chromium's DevTools protocol over a pipe.

    JSON messages that end with a zero byte, on file descriptors 3 and 4.
    """

    def __init__(self, program, profile):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # bash moves its ends to where Chromium looks for them.
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = [
            "bash",
            "-c",
            script,
            "bash",
            program,
            *FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        self.process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self.read, self.write = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb", buffering=0)
        self.number, self.session, self.events, self.rest = 0, None, [], b""
        target = next(
            t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"
        )
        self.session = self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.rest:
            more = os.read(self.read.fileno(), 1 << 20)
            assert more, "Chromium has ended"
            self.rest += more
        first, self.rest = self.rest.split(b"\0", 1)
        return json.loads(first)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        self.write.write(
            json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode()
            + b"\0"
        )
        while (answer := self.message()).get("id") != self.number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, url):
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message())

    def run(self, script):
        """Value of a JavaScript expression."""
        result = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def key(self, key):
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def hover(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path):
        path.write_bytes(
            base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        )

    def close(self):
        try:
            self.call("Browser.close")
        except (AssertionError, OSError):
            self.process.kill()
        self.process.wait(timeout=20)
        self.read.close()
        self.write.close()


# ---- sentences by hand


def small_study():
    """A base, an SFT and an RL model, one run of each, numbers of the group "math"."""
    training = {"sft": {"n_steps": 10, "lr": 0.001}, "rl": {}}
    pair = ["sft", "rl"]
    models = Models(
        "b", "b", {"sft": "s", "rl": "r"}, training, {"sft": "SFT", "rl": "RL"}, pair, pair
    )
    study = Study(models)
    for name, kl in (("sft", 0.25), ("rl", 0.5)):
        summary = {
            "kl_forward": {"macro": kl, "low": None, "high": None},
            "shifted_per_response": 8 - 4 * kl,
            "shifted_low": None,
            "shifted_high": None,
            "pca_shift": 1.0,
            "pca_shift_masked": None,
        }
        study.results[name] = {"groups": {"math": summary}, "tasks": {"fact": {}}}
        study.weights[name] = {"n": 0}
    for name, accuracy, tokens in (("b", 96.0, 10.0), ("sft", 40.0, 30.0), ("rl", 50.0, 20.0)):
        summary = {"accuracy": accuracy, "n_thinking_tokens": tokens}
        study.accuracy[name] = {"math": summary}
        study.graded[name] = {"groups": {"math": summary}}
        study.runs.append(Run(name, "0", {}, [{"id": "1"}]))
    return study


def test_summary_sentences():
    study = small_study()
    study.curves = {
        "sft": [
            {"accuracy": 40.0, "label": "no forcing", "n_thinking_tokens": 30.0},
            {"accuracy": 20.0, "label": "budget 0", "n_thinking_tokens": 0.0},
        ]
    }
    assert page_file.summary_sentences(study) == [
        "b (base) is right on 96.0% in math.",
        "sft (SFT) is right on 40.0% in math (-56.0 points).",
        "rl (RL) is right on 50.0% in math (-46.0 points).",
        "Per token of its own answers, sft is 0.25 (math) nats of KL away from the base.",
        "Per token of its own answers, rl is 0.5 (math) nats of KL away from the base.",
        "Forcing sft to think less or more moves it from 20.0% (budget 0, 0 tokens) to "
        "40.0% (no forcing, 30 tokens).",
    ]


def test_the_page_says_which_of_several_sft_models_was_compared():
    study = small_study()
    said = "Of 2 trainings by SFT, sft is the one that comes nearest to rl in right answers."
    assert said not in page_file.caveats(study)
    study.models = replace(study.models, kinds={"sft": "SFT", "seed1/sft2": "SFT", "rl": "RL"})
    assert said in page_file.caveats(study)


def test_caveats_are_called_for_by_numbers():
    """One seed, one sample, a base near 100%, KL not larger for SFT: a sentence each."""
    study = small_study()
    study.matched = {"total": {"times": 2.0, "n_steps": 20.0}}
    said = page_file.caveats(study)
    for beginning in (
        "One seed:",
        "A majority vote over short answers was not measured",
        "Training changes how long a model thinks, too. Mean thinking tokens in math: "
        "b 10 (96% right), rl 20 (50% right) and sft 30 (40% right). In 0% of the pairs",
        "The two trainings are not matched in compute or accuracy; sft: 10 steps at learning "
        "rate 0.001.",
        "Counting total FLOPs, rl took 2 times what sft took; as many steps of sft: 20.",
        "KL is not larger for sft than for rl in math.",
        "PCA is not larger",
        "The base is right on more than 95% of math",
        "Pretraining has seen the questions of fact",
    ):
        assert sum(sentence.startswith(beginning) for sentence in said) == 1, beginning
    assert not any(sentence.startswith("shifted is not larger") for sentence in said)
    study.runs = [Run("b", seed, {}, [{"id": "1"}, {"id": "1"}]) for seed in "01"]
    study.matched = {"total": {"times": 1.01}}
    study.refused = {"x": "x: broken"}
    study.waits = {"sft": {"most": "A", "best": "B", "interval": "-5 [-9, -1]", "high": -1}}
    said = page_file.caveats(study)
    assert not any(s.startswith(("One seed", "A majority", "Training changes")) for s in said)
    assert "The two trainings are not matched in accuracy; sft" in " ".join(said)
    assert "A against B makes -5 [-9, -1] points for sft: in the end it hurts." in " ".join(said)
    assert any(sentence.endswith("x: broken") for sentence in said)


def test_lists_of_words():
    assert page_file.join_words(["a"]) == "a"
    assert page_file.join_words(["a", "b", "c"]) == "a, b and c"


# ---- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not program:
        pytest.skip("no Chromium on this machine (tests/run.sh installs Debian's package as root)")
    browser = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, analysed):
    """The report of three small models, freshly loaded at 1000 × 800, and its tokens."""
    browser.events.clear()
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=1000,
        height=800,
        deviceScaleFactor=1,
        mobile=False,
    )
    browser.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}]
    )
    browser.open((analysed[1] / "report.html").as_uri())
    return browser, browser.run("JSON.parse(document.getElementById('data').textContent)")


def errors(browser):
    return [
        event
        for event in browser.events
        if event.get("method") == "Runtime.exceptionThrown"
        or event.get("method") == "Runtime.consoleAPICalled"
        and event["params"]["type"] in ("error", "warning")
        or event.get("method") == "Log.entryAdded"
        and event["params"]["entry"]["level"] in ("error", "warning")
    ]


def place_of(browser, box, token):
    """Middle of a token on the screen, after scrolling there."""
    return browser.run(f"""(() => {{
        const span = document.querySelectorAll('.tokens')[{box}].children[{token}]
        span.scrollIntoView({{block: 'center'}}); const r = span.getClientRects()[0]
        return [r.x + r.width / 2, r.y + r.height / 2] }})()""")


def test_loads_without_errors(page):
    """No message on the console, no request but for the file itself.

    Every token is a span, forced ones are framed, text is text.
    """
    browser, data = page
    assert not errors(browser)
    urls = [
        e["params"]["request"]["url"]
        for e in browser.events
        if e.get("method") == "Network.requestWillBeSent"
    ]
    assert [url.split(":")[0] for url in urls] == ["file"]
    assert browser.run(
        "[...document.querySelectorAll('.tokens')].map(box => box.children.length)"
    ) == [len(t) for t in data]
    forced = [[i, j] for i, tokens in enumerate(data) for j, t in enumerate(tokens) if t[5]]
    assert (
        forced
        and browser.run("""[...document.querySelectorAll('.tokens')].flatMap((box, i) =>
        [...box.children].flatMap((span, j) => span.className == 'injected' ? [[i, j]] : []))""")
        == forced
    )
    assert (
        browser.run("document.images.length") == 0
        and browser.run("document.querySelectorAll('svg').length") >= 8
    )


def test_hover_shows_the_numbers(page):
    """Pointing at tokens shows their KL, ranks, entropy and the base's alternatives."""
    browser, data = page
    for box, token in ((0, 1), (1, 3), (len(data) - 1, 2)):
        text, kl, rank_base, rank_tuned, entropy, forced, likely = data[box][token]
        browser.hover(*place_of(browser, box, token))
        shown = browser.run("document.getElementById('tip').textContent").split("\n")
        assert browser.run("document.getElementById('tip').hidden") is False
        assert shown[0] == text.strip() + (" (written by budget forcing)" if forced else "")
        assert shown[1] == (
            f"KL {kl:g} nats · rank {rank_base} under the base, {rank_tuned} under the model · "
            f"entropy {entropy:g} nats"
        )
        assert shown[2].startswith("the base expected ") and len(likely) == 3
        for word, p in likely:
            assert f"{word.strip()} {100 * p:.1f}%" in shown[2]


def test_colours_follow_the_choice(page):
    """The strongest colour is on the token with the largest value of what was chosen."""
    browser, data = page
    for key, value in (
        ("2", lambda t: abs(t[2] - t[3])),
        ("3", lambda t: t[4]),
        ("1", lambda t: t[1]),
    ):
        browser.key(key)
        alphas = browser.run("""[...document.querySelectorAll('.tokens span')].map(span =>
            +(span.style.background.match(/, ([\\d.]+)\\)/) || [0, 1])[1])""")
        values = [value(t) for tokens in data for t in tokens]
        assert len(alphas) == len(values) and max(alphas) == pytest.approx(0.85)
        assert alphas[values.index(max(values))] == max(alphas) and alphas[
            values.index(min(values))
        ] == min(alphas)
        order = sorted(range(len(values)), key=values.__getitem__)
        assert all(alphas[a] <= alphas[b] + 1e-3 for a, b in zip(order, order[1:]))
    assert browser.run(
        "getComputedStyle(document.querySelector('.tokens span')).backgroundColor"
    ).startswith("rgb")


def test_search_and_keyboard(page):
    """/ goes to the search; its matches, also across tokens, are counted and walked through.

    Arrows go from token to token.
    """
    browser, data = page
    texts, query = (
        ["".join(t[0] for t in tokens).lower() for tokens in data],
        "".join(t[0] for t in data[0][2:5]).strip(),
    )
    assert query.replace(" ", "") == "4+5"
    browser.key("/")
    for key in query:
        browser.key(key)
    n = sum(text.count(query) for text in texts)
    assert n > 3 and browser.run("document.getElementById('count').textContent") == f"{n} found"
    browser.key("Enter")
    assert browser.run("document.getElementById('count').textContent") == f"1 of {n}"
    assert browser.run("document.querySelector('.here').textContent").strip() == "4"
    assert browser.run("document.querySelectorAll('.found').length") >= 3 * n
    browser.key("Escape")
    where = (
        "[...document.querySelectorAll('.tokens span')].indexOf(document.querySelector('.here'))"
    )
    first = browser.run(where)
    browser.key("ArrowRight")
    assert browser.run(where) == first + 1
    assert browser.run("document.getElementById('tip').textContent").startswith("+")
    browser.key("ArrowLeft")
    assert browser.run(where) == first
    assert not errors(browser)


def test_hostile_text_is_escaped(analysed):
    """Texts that try to end the script or to load an image stay text."""
    page = (analysed[1] / "report.html").read_text()
    assert "<img" not in page and "onerror" in page and page.count("</script>") == 2
    data = json.loads(
        re.search(r"<script type=application/json id=data>(.*?)</script>", page, re.DOTALL)[1]
    )
    assert any(HOSTILE in token[0] for tokens in data for token in tokens)
    # nothing is loaded from anywhere
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//|@import|url\((?!#)", page)
    assert sum(token[5] for tokens in data for token in tokens) >= 3  # injected tokens are marked


def contrast(ink, back):
    """WCAG contrast of two (r, g, b)."""

    def light(colour):
        parts = [
            c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4
            for c in colour
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    one, other = sorted((light(ink), light(back)), reverse=True)
    return (one + 0.05) / (other + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_readable_everywhere(page, scheme, width, tmp_path):
    """In light and dark, on a desk and on a phone: nothing is wider than the screen but what
    scrolls by itself, and text has a contrast of 4.5 (WCAG AA), also on the strongest colour.
    """
    browser, _ = page
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=width < 600,
    )
    browser.call(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    assert browser.run("document.documentElement.scrollWidth") <= width
    style = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
    ink, card, back, dim, heat = (
        browser.run(style.format(name)) for name in ("ink", "card", "back", "dim", "heat")
    )

    def rgb(text):
        text = "#" + "".join(2 * c for c in text[1:]) if len(text) == 4 else text
        return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))

    hot = [0.85 * int(h) + 0.15 * c for h, c in zip(heat.split(","), rgb(card))]
    assert (
        contrast(rgb(ink), rgb(back)) > 7
        and contrast(rgb(dim), rgb(back)) > 4.5
        and contrast(rgb(ink), hot) > 4.5
    )
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
