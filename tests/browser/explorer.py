"""One explorer on a page: what it shows, and whether anything flickers or jumps while it is used."""

import time
from typing import Any

from playwright.sync_api import Locator

from tests.browser.lab import LabPage

# Looks at every frame that the page paints: is there a picture, decoded, and has nothing moved?
WATCH = """
(root) => {
    const watch = {bad: [], frames: 0, on: true, pictures: 0};
    const height = root.offsetHeight;
    let last = root.querySelector('.spgca-picture img').src;
    const look = () => {
        if (!watch.on) return;
        watch.frames += 1;
        const image = root.querySelector('.spgca-picture img');
        if (!image || !image.complete || image.naturalWidth === 0) watch.bad.push('a frame without a picture');
        else if (image.src !== last) { watch.pictures += 1; last = image.src; }
        if (root.offsetHeight !== height) watch.bad.push(`height ${height} became ${root.offsetHeight}`);
        requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
    window.spgcaWatch = watch;
}
"""

# Contrast of words against what lies behind them, as the Web Content Accessibility Guidelines define it.
CONTRAST = """
(root) => {
    const rgba = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
    const light = (c) => {
        const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = c.slice(0, 3).map(v => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const c = rgba(getComputedStyle(e).backgroundColor);
            if (c.length === 3 || (c.length === 4 && c[3] > 0.9)) return c;
        }
        return [255, 255, 255];
    };
    const poor = [];
    const kinds = '.widget-label, .widget-html-content *, button, select, .widget-readout';
    for (const element of root.querySelectorAll(kinds)) {
        const words = [...element.childNodes].filter(n => n.nodeType === 3 && n.textContent.trim()).length;
        if (!words || element.disabled || element.offsetParent === null) continue;
        const [a, b] = [light(rgba(getComputedStyle(element).color)), light(behind(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) poor.push(`${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(1)}`);
    }
    return poor;
}
"""

REACHABLE = ".noUi-handle, select, button, input:not([type=file]), textarea, a[href]"


class Shown:
    """One explorer of the open notebook.

    Args:
        lab: the page.
        number: which of those on the page.
    """

    def __init__(self, lab: LabPage, number: int = 0):
        self.lab = lab
        self.root = lab.page.locator(".spgca-explorer").nth(number)
        self.image = self.root.locator(".spgca-picture img")
        self.root.locator(".spgca-picture img").wait_for(timeout=60_000)

    def slider(self, description: str) -> Locator:
        """The handle of a slider."""
        return self.lab.widget("widget-slider", description).locator(".noUi-handle").first

    def sliders(self) -> list[str]:
        """Names of the sliders that can be moved."""
        return self.root.evaluate(
            """(root) => [...root.querySelectorAll('.widget-slider')].filter(e => {
                const track = e.querySelector('.noUi-target'), handle = e.querySelector('.noUi-handle');
                return e.offsetParent !== null && !track.hasAttribute('disabled')
                    && Number(handle.getAttribute('aria-valuemax')) > Number(handle.getAttribute('aria-valuemin'));
            }).map(e => e.querySelector('.widget-label').innerText.trim())"""
        )

    def picture(self) -> str:
        """The picture's data."""
        return self.image.get_attribute("src") or ""

    def alt(self) -> str:
        """The picture's alternative text."""
        return self.image.get_attribute("alt") or ""

    def height(self) -> float:
        """Of the whole explorer, in pixels."""
        return float(self.root.evaluate("e => e.offsetHeight"))

    def says(self, text: str, timeout: float = 30) -> None:
        """Wait until the explorer's words contain `text`."""
        self.root.locator(".widget-html-content", has_text=text).first.wait_for(timeout=timeout * 1000)

    def changes(self, before: str, timeout: float = 30) -> str:
        """Wait until the picture is another one; its data."""
        deadline = time.monotonic() + timeout
        while self.picture() == before:
            assert time.monotonic() < deadline, "the picture did not change"
            self.lab.page.wait_for_timeout(30)
        return self.picture()

    def watch(self) -> None:
        """Begin to look at every frame."""
        self.root.evaluate(WATCH)

    def watched(self) -> dict[str, Any]:
        """What was seen since `watch`: bad frames, number of frames, number of new pictures."""
        return self.lab.page.evaluate("() => { window.spgcaWatch.on = false; return window.spgcaWatch; }")

    def button(self, text: str) -> Locator:
        """A button of the explorer, by its text."""
        return self.root.locator("button", has_text=text).first

    def reached_by_tab(self) -> tuple[int, list[str]]:
        """How many controls Tab reaches from the first one on, and which it does not."""
        self.root.evaluate(
            """(root, wanted) => {
                const there = [...root.querySelectorAll(wanted)].filter(e => e.offsetParent !== null && !e.disabled
                    && getComputedStyle(e).visibility !== 'hidden');
                there.forEach((e, i) => { e.dataset.spgcaNumber = i; });
                window.spgcaCount = there.length;
                there[0].focus();
            }""",
            REACHABLE,
        )
        count, seen = self.lab.page.evaluate("() => window.spgcaCount"), set()
        for _ in range(2 * count + 10):  # scrolling boxes take a stop of their own
            seen.add(self.lab.page.evaluate("() => document.activeElement?.dataset?.spgcaNumber ?? null"))
            self.lab.page.keyboard.press("Tab")
        seen.discard(None)
        missing = [str(i) for i in range(count) if str(i) not in seen]
        names = self.root.evaluate(
            """(root, numbers) => numbers.map(
                n => root.querySelector(`[data-spgca-number='${n}']`).outerHTML.slice(0, 90))""",
            missing,
        )
        return count, names

    def poor_contrast(self) -> list[str]:
        """Words that are hard to read on what lies behind them."""
        return self.root.evaluate(CONTRAST)

    def too_wide(self) -> list[str]:
        """Parts that stick out of the cell."""
        return self.root.evaluate(
            """(root) => {
                const edge = root.closest('.jp-OutputArea-output').getBoundingClientRect().right + 1;
                return [...root.querySelectorAll('img, button, select, .widget-slider, .widget-html')]
                    .filter(e => e.offsetParent !== null && e.getBoundingClientRect().right > edge)
                    .map(e => `${e.className || e.tagName}: ${e.textContent.slice(0, 30)}`);
            }"""
        )

    def hidden_words(self) -> list[str]:
        """Words that are cut off: beside any box, and below the lines that say where one is and what is seen."""
        return self.root.evaluate(
            """(root) => {
                const boxes = [...root.querySelectorAll('.widget-html')].filter(e => e.offsetParent !== null);
                const lines = boxes.filter(e => e.parentElement === root && !e.querySelector('table'));
                const wide = boxes.filter(e => e.scrollWidth > e.clientWidth + 1);
                const tall = lines.filter(e => e.scrollHeight > e.clientHeight + 1);
                return [...wide, ...tall].map(e => e.innerText.slice(0, 80));
            }"""
        )

    def without_tip(self) -> list[str]:
        """Controls that say nothing when the mouse rests on them or on their name."""
        return self.root.evaluate(
            """(root, wanted) => {
                const whole = '.widget-inline-hbox, .widget-inline-vbox, .widget-slider, .widget-play';
                const tips = (e) => [e, ...e.querySelectorAll('[title]')].map(x => x.title);
                const told = (e) => {
                    for (let box = e; box !== root; box = box.parentElement) {
                        if (tips(box).some(t => t && t !== 'null')) return true;
                        if (box.matches(whole)) break;
                    }
                    return false;
                };
                return [...root.querySelectorAll(wanted)].filter(e => e.offsetParent !== null && !told(e))
                    .map(e => e.outerHTML.slice(0, 90));
            }""",
            ".noUi-handle, select, button, input:not([type=file]), textarea",
        )
