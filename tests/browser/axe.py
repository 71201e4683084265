"""axe-core, which tells what keeps people with disabilities out of a page."""

from __future__ import annotations

from playwright.sync_api import Frame, Page

from tests.clients.npm import unpacked

AXE_CORE = (
    "axe-core@4.14.1",
    "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
)


def complaints(page: Page | Frame) -> list[str]:
    """What axe-core finds of serious or critical impact in a document, a line each.

    The script goes in past the document's Content-Security-Policy, as a browser's tools do.
    """
    page.evaluate((unpacked(*AXE_CORE) / "axe.min.js").read_text("utf-8") + "\n;0")
    found: list[str] = page.evaluate(
        """async () => (await axe.run(document)).violations
             .filter(({ impact }) => impact === 'serious' || impact === 'critical')
             .flatMap(({ id, help, nodes }) => nodes.map(({ html }) => `${id}: ${help}: ${html.slice(0, 300)}`))"""
    )
    return found
