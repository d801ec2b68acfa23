"""Drive the example as people do who have several browsers, some of which run no JavaScript."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from .. import servers
from ..conftest import Adapter
from .served import served

NewPage = Callable[..., Awaitable[Page]]

PATIENCE = 60_000
"""Milliseconds: a machine that runs all tests at once is slow."""
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Safari/604.1"


@pytest.fixture
async def chromium() -> AsyncGenerator[Browser, None]:
    """Give a browser without a window; each of its contexts has cookies of its own."""
    executable = servers.find_browser()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, timeout=PATIENCE)
        yield browser
        await browser.close()


@pytest.fixture
def address(adapter: Adapter, fresh_database: str, tmp_path: Path) -> Generator[str, None, None]:
    """Serve the example over the adapter's database, and give its address."""
    url = fresh_database if adapter.networked else f"sqlite:///{fresh_database}"
    with served(tmp_path, DATABASE_URL=url) as address:
        yield address


@pytest.fixture
def new_page(chromium: Browser, address: str) -> NewPage:
    """Return a function that opens the example on a device that nobody has used yet."""

    async def new_page(**device: Any) -> Page:  # noqa: ANN401 - what Playwright calls the options of a context
        page = await (await chromium.new_context(**device)).new_page()
        page.set_default_timeout(PATIENCE)
        await page.goto(address)
        return page

    return new_page


async def press(page: Page, button: str) -> None:
    """Click on a button of *page*, and wait until the page that it leads to is there."""
    async with page.expect_navigation():
        await page.get_by_role("button", name=button, exact=True).click()


async def log_in(page: Page, name: str = "Ada") -> None:
    """Fill in the form that *page* shows."""
    await page.get_by_label("Your name").fill(name)
    await press(page, "Log in")


async def devices(page: Page) -> list[str]:
    """Return the devices that *page* lists after it has been loaded anew: the first, then the others by name."""
    await page.reload()
    names = [row.split("\n")[0] for row in await page.get_by_role("listitem").all_inner_texts()]
    return names[:1] + sorted(names[1:])


async def heading(page: Page) -> str:
    """Return what *page* begins with."""
    return await page.get_by_role("heading", level=1).inner_text()


@pytest.mark.adapters("asyncpg", "sqlite")
async def test_one_device_logs_out_another(new_page: NewPage) -> None:
    """Each lists all, itself first; the one that is revoked is asked for a name, and can log in again."""
    desk, phone, another = [await new_page(user_agent=agent) for agent in (FIREFOX, IPHONE, None)]
    for page in (desk, phone, another):
        await log_in(page)
    assert await devices(desk) == ["Firefox on Linux This device", "Chrome on Linux", "Safari on iPhone"]
    assert await devices(phone) == ["Safari on iPhone This device", "Chrome on Linux", "Firefox on Linux"]
    await press(desk, "Revoke Safari on iPhone")

    assert await devices(desk) == ["Firefox on Linux This device", "Chrome on Linux"]
    assert await devices(phone) == []
    assert await devices(another) == ["Chrome on Linux This device", "Firefox on Linux"]
    await log_in(phone)
    assert await devices(phone) == ["Safari on iPhone This device", "Chrome on Linux", "Firefox on Linux"]


@pytest.mark.adapters("asyncpg", "sqlite")
async def test_one_device_logs_out_all_others(new_page: NewPage) -> None:
    """It stays logged in itself, and so does everybody else."""
    first, *others, of_bob = [await new_page() for _ in range(4)]
    for page in (first, *others):
        await log_in(page)
    await log_in(of_bob, "Bob")
    await first.reload()
    await press(first, "Log out everywhere else")

    assert len(await devices(first)) == 1
    assert [await devices(page) for page in others] == [[], []]
    assert len(await devices(of_bob)) == 1


@pytest.mark.adapters("sqlite")
async def test_tabs_share_a_session(new_page: NewPage, address: str) -> None:
    """They are one device; when one logs out, the other's buttons have no effect."""
    elsewhere, tab = await new_page(user_agent=FIREFOX), await new_page()
    other_tab = await tab.context.new_page()
    await other_tab.goto(address)
    for page in (elsewhere, tab, other_tab):
        await log_in(page)
    assert await devices(tab) == ["Chrome on Linux This device", "Firefox on Linux"]
    await press(tab, "Log out")
    await press(other_tab, "Revoke Firefox on Linux")

    assert await heading(other_tab) == "Who is there?"
    assert await devices(elsewhere) == ["Firefox on Linux This device"]


@pytest.mark.adapters("sqlite")
async def test_everybody_can_use_the_pages(new_page: NewPage) -> None:
    """Without JavaScript, with the keyboard alone, and on a narrow phone without scrolling sideways."""
    other = await new_page()
    await log_in(other)
    page = await new_page(java_script_enabled=False, viewport={"width": 320, "height": 480})
    await page.keyboard.type("Ada")  # the only field has the focus
    async with page.expect_navigation():
        await page.keyboard.press("Enter")
    for control in ("Log out", "Revoke Chrome on Linux", "Log out everywhere else"):
        await page.keyboard.press("Tab")
        await expect(page.locator(":focus")).to_have_accessible_name(control, timeout=PATIENCE)
    assert await page.evaluate("document.documentElement.scrollWidth") == 320
    async with page.expect_navigation():
        await page.keyboard.press("Enter")

    assert await devices(page) == ["Chrome on Linux This device"]
    assert await devices(other) == []
