"""Pages of others in the operator's own browser, a colleague's browser, and the page that asks to sign in.

The stranger's server listens on another port of the same machine, the nearest that another origin can be: to a browser
it is the same *site*, which the cookie of the session follows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest
from dev import Dev
from playwright.sync_api import Browser, BrowserContext, Page, StorageState, expect

pytestmark = pytest.mark.long
expect.set_options(timeout=30_000)

LAUNCH = """mutation { launchRun(executionParams: {selector: {repositoryName: "__repository__",
    repositoryLocationName: "import_pipeline.definitions", jobName: "migrate"}, runConfigData: {}}) { __typename } }"""
ATTACKS = """
async ([address, query]) => {
  const told = {}
  const link = `${address}/graphql?query=${encodeURIComponent(query)}`
  const load = (tag, property, url) => new Promise(resolve => {
    const element = document.createElement(tag)
    element.onload = element.onerror = resolve
    element[property] = url
    document.body.append(element)
    setTimeout(resolve, 5000)
  })
  await load('img', 'src', link)
  await load('script', 'src', link)
  await load('iframe', 'src', link)
  await load('iframe', 'src', `${address}/runs`)
  const asked = JSON.stringify({query})
  const ask = (name, url, options) => fetch(url, options).then(
    async answer => { told[name] = answer.type === 'opaque' ? 'opaque' : await answer.text() },
    error => { told[name] = 'refused' })
  const included = {credentials: 'include'}
  await ask('get', link, {...included, mode: 'no-cors'})
  await ask('read', link, included)
  await ask('text', `${address}/graphql`, {...included, method: 'POST', mode: 'no-cors', body: asked})
  await ask('json', `${address}/graphql`,
            {...included, method: 'POST', body: asked, headers: {'content-type': 'application/json'}})
  await ask('blob', `${address}/graphql`, {...included, method: 'POST', mode: 'no-cors', body: new Blob([asked])})
  await ask('report', `${address}/report_asset_materialization/forged`, {...included, method: 'POST', mode: 'no-cors'})
  told.beacon = navigator.sendBeacon(`${address}/graphql`, asked)
  told.websocket = await new Promise(resolve => {
    const socket = new WebSocket(`${address.replace('http', 'ws')}/graphql`, 'graphql-ws')
    socket.onopen = () => resolve('open')
    socket.onerror = () => resolve('refused')
  })
  return told
}
"""
ASK = """
query => fetch('/graphql', {
  method: 'POST', body: JSON.stringify({query}), headers: {'content-type': 'application/json'}
}).then(answer => answer.status)
"""
SUBMIT = """
([address, query, type]) => {
  const form = document.createElement('form')
  Object.assign(form, {method: 'POST', action: `${address}/graphql?query=${encodeURIComponent(query)}`, enctype: type})
  const field = document.createElement('input')
  Object.assign(field, {name: `{"query": ${JSON.stringify(query)}, "x": "`, value: '"}'})
  form.append(field)
  document.body.append(form)
  form.submit()
}
"""


@pytest.fixture(scope="module")
def stranger() -> Iterator[int]:
    """The port of somebody else's website; `/to?` and an address leads there by a link."""

    class Website(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f'<body><a href="{self.path.partition("?")[2]}">an alert</a>'.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Website) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"], ids=["the same site", "another site"])
def test_a_page_of_another_origin_starts_nothing_reads_nothing_and_opens_no_websocket(
    page: Page, dev: Dev, stranger: int, name: str
) -> None:
    before = dev.runs()
    page.goto(f"http://{name}:{stranger}/")
    told = page.evaluate(ATTACKS, [dev.url, LAUNCH])
    assert told.pop("beacon") in (True, False)  # whether it was sent, not what was answered
    assert set(told.values()) <= {"refused", "opaque"}, told
    assert told["websocket"] == "refused"
    for frame in page.frames[1:]:
        assert "dagster" not in frame.content().lower()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        page.goto(f"http://{name}:{stranger}/")
        with page.expect_navigation():
            page.evaluate(SUBMIT, [dev.url, LAUNCH, kind])
        expect(page.get_by_text("Another website asked for this.")).to_be_visible()
    page.goto(f"http://{name}:{stranger}/to?{dev.url}/graphql?query={quote(LAUNCH)}")
    page.get_by_text("an alert").click()
    expect(page.get_by_text("GraphQL is asked by POST.")).to_be_visible()
    assert dev.runs() == before


def test_a_name_that_was_pointed_at_this_machine_leads_to_nothing(browser: Browser, dev: Dev) -> None:
    # Any name below `localhost` is this machine to a browser, which is what a rebound name is.
    page = browser.new_page()
    answer = page.goto(f"http://evil.localhost:{dev.port}/")
    assert answer is not None
    assert answer.status == 421
    assert page.evaluate(ASK, LAUNCH) == 421
    page.close()


def test_a_link_in_a_chat_leads_who_is_signed_in_to_its_page(page: Page, dev: Dev, stranger: int) -> None:
    page.goto(f"http://localhost:{stranger}/to?{dev.url}/runs")
    page.get_by_text("an alert").click()
    expect(page.get_by_role("button", name="Filter")).to_be_visible()
    assert page.url.startswith(f"{dev.url}/runs")


def test_the_link_for_colleagues_in_a_chat_leaves_the_operator_the_operator_and_lets_a_colleague_in(
    page: Page, browser: Browser, dev: Dev, stranger: int
) -> None:
    chat = f"http://localhost:{stranger}/to?{dev.link('--viewer')}"
    colleague = browser.new_page()
    for visitor, answer in ((page, 200), (colleague, 403)):
        visitor.goto(chat)
        visitor.get_by_text("an alert").click()
        expect(visitor.get_by_text("Overview").first).to_be_visible()
        assert visitor.evaluate(ASK, "mutation { setNuxSeen }") == answer
    colleague.context.close()


@pytest.fixture
def shoot_signing_in(browser: Browser, dev: Dev, pictures: Callable[[Page, str], None]) -> None:
    for name, size, scheme in (
        ("wide", {"width": 1440, "height": 900}, "light"),
        ("narrow", {"width": 360, "height": 740}, "light"),
        ("dark", {"width": 1000, "height": 740}, "dark"),
    ):
        page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(f"{dev.url}/runs")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off"
        pictures(page, f"sign in, {name}")
        page.close()


@pytest.mark.usefixtures("shoot_signing_in")
def test_who_is_not_signed_in_is_told_how_and_the_link_leads_in_and_leaves_no_token(
    browser: Browser, dev: Dev, pictures: Callable[[Page, str], None]
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(dev.url)
    expect(page.get_by_text("import-pipeline dev --link")).to_be_visible()
    link = dev.link()
    token = link.partition("token=")[2]
    page.goto(link)
    expect(page.get_by_text("Overview").first).to_be_visible()
    assert token not in page.url
    assert token not in page.evaluate("document.referrer + JSON.stringify(performance.getEntries())")
    page.go_back()
    assert token not in page.url
    assert not page.evaluate("document.cookie"), "no script reads it"
    other = browser.new_page()
    other.goto(link)
    expect(other.get_by_role("heading", name="This link does not work any more")).to_be_visible()
    pictures(other, "sign in, used link")
    other.close()
    context.close()


@pytest.fixture
def colleague(browser: Browser, dev: Dev) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=dev.url, viewport={"width": 1440, "height": 900})
    context.new_page().goto(dev.link("--viewer"))
    yield context
    context.close()


MUTATE = """
query => Promise.all([
  fetch('/graphql', {method: 'POST', body: JSON.stringify({query}), headers: {'content-type': 'application/json'}})
    .then(answer => answer.json()).then(answer => answer.errors[0].message),
  new Promise(resolve => {
    const socket = new WebSocket(`ws://${location.host}/graphql`, 'graphql-ws')
    socket.onopen = () => {
      socket.send(JSON.stringify({type: 'connection_init'}))
      socket.send(JSON.stringify({type: 'start', id: '1', payload: {query}}))
    }
    socket.onmessage = message => { if (JSON.parse(message.data).type !== 'connection_ack') resolve(message.data) }
    socket.onclose = () => resolve('closed')
  }),
])
"""


def test_a_colleague_sees_the_pages_and_launches_nothing_by_page_request_or_websocket(
    colleague: BrowserContext, dev: Dev, pictures: Callable[[Page, str], None]
) -> None:
    before = dev.runs()
    (page,) = colleague.pages
    page.goto("/locations/import_pipeline.definitions/jobs/import_fathom/playground")
    expect(page.get_by_role("tab", name="Launchpad")).to_be_disabled()
    expect(page.get_by_text("connect", exact=True).first).to_be_visible()  # instead it leads to the graph
    pictures(page, "job, to a colleague")
    by_request, by_websocket = page.evaluate(MUTATE, LAUNCH)
    assert by_request == "A read-only link changes nothing."
    assert "LaunchRunSuccess" not in by_websocket
    assert dev.runs() == before


def test_a_run_is_shown_live_over_the_websocket(page: Page, dev: Dev, signed_in: StorageState) -> None:
    """A run whose end is told to a page that was open before."""
    sockets: list[str] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: sockets.append(str(frame))))
    run_id = dev.launch("import_fathom")
    page.goto(f"/runs/{run_id}")
    expect(page.get_by_text("RUN_SUCCESS")).to_be_visible(timeout=90_000)
    assert any("RUN_SUCCESS" in frame or "RunSuccessEvent" in frame for frame in sockets)
