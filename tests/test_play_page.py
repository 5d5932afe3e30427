"""The page in a real browser. Where there is none it is not opened, and the tests say so."""

import pytest
from chromium import browser, find_chromium, until
from test_play import Real, walk
from test_play_server import Client, serving

BINARY = find_chromium()
pytestmark = pytest.mark.skipif(
    BINARY is None, reason="the page was not opened: there is no Chromium; install one, or name it with $CHROMIUM"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(BINARY, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def port():
    """The port of a game beside reality."""
    with serving(walk(Real, fps=30)) as found:
        yield found


@pytest.fixture
def tab(chromium, port):
    """The page, playing; nothing on it may have gone wrong in the end."""
    tab = chromium.tab()
    tab.open(f"http://127.0.0.1:{port}/")
    until(lambda: frame(tab) > 1, what="playing")
    yield tab
    tab.value("0")  # what the console has said until now
    tab.close()
    assert tab.errors == []


def frame(tab):
    return int(tab.value("document.body.dataset.frame || 0"))


def pixels(tab, side):
    return tab.value(f"document.getElementById({side!r}).toDataURL()")


def number(tab, element):
    return float(tab.text(element))


def test_frames_move_on_both_screens(tab):
    before = pixels(tab, "dream"), pixels(tab, "real")
    tab.key("ArrowRight", True)
    until(lambda: pixels(tab, "dream") != before[0] and pixels(tab, "real") != before[1], what="moving")
    assert tab.text("link-text") == "connected"
    assert not tab.value("document.getElementById('real-card').hidden")
    assert tab.value("document.getElementById('no-real').hidden")
    assert tab.value("document.getElementById('dream').width") == 480


def test_a_key_changes_the_dream_and_letting_go_stops_it(tab):
    assert number(tab, "dream-reward") == 10.0
    tab.key("ArrowRight", True)
    until(lambda: number(tab, "dream-reward") > 12, what="moving right")
    tab.key("ArrowRight", False)
    until(lambda: tab.value("state.action[0]") == 0, what="standing still")
    tab.key("ArrowLeft", True)
    until(lambda: number(tab, "dream-reward") < 10, what="moving left")


def test_a_key_that_is_down_when_the_window_loses_focus_is_let_go(tab):
    tab.key("ArrowRight", True)
    until(lambda: tab.value("state.action[0]") == 2, what="moving")
    tab.value("void dispatchEvent(new Event('blur'))")
    until(lambda: tab.value("state.action[0]") == 0, what="standing still")


def test_resync_sets_the_dream_to_reality(tab):
    tab.key("ArrowRight", True)
    until(lambda: number(tab, "dream-reward") > 12, what="moving right")
    tab.key("ArrowRight", False)
    tab.click("pause")
    until(lambda: tab.text("pause") == "Play", what="the pause")
    dreamt = number(tab, "dream-reward")
    tab.click("resync")
    until(lambda: number(tab, "since") == 0, what="the resync")
    assert tab.value("state.dream.reward") is None
    tab.click("step")
    until(lambda: number(tab, "since") == 1, what="a step")
    assert tab.value("state.paused")
    assert number(tab, "dream-reward") == 10 + 2 * (dreamt - 10)  # reality is twice as fast


def test_the_shortcuts_and_controls_work(tab):
    for key, condition in (("KeyP", "state.paused"), ("KeyP", "!state.paused"), ("KeyR", "state.step < 9")):
        tab.key(key, True)
        tab.key(key, False)
        until(lambda condition=condition: tab.value(condition), what=condition)
    tab.click("likeliest")
    until(lambda: tab.value("!state.sample"), what="the mean")
    tab.value("$('horizon').value = 7, $('horizon').onchange()")
    tab.value("$('fps').value = 20, $('fps').oninput()")
    until(lambda: tab.value("state.horizon == 7 && state.fps == 20"), what="the settings")
    until(lambda: "horizon" in tab.text("dream-ended"), what="the end")


def test_fingers_hold_buttons_and_move_sliders(tab):
    place = tab.value("(r => [r.x + 9, r.y + 9])($('pad').children[1].getBoundingClientRect())")
    touch = [{"x": place[0], "y": place[1]}]
    tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
    tab.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=touch)
    until(lambda: tab.value("state.action[0]") == 2, what="the button")
    tab.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    until(lambda: tab.value("state.action[0]") == 0, what="letting go")
    tab.value("(i => { i.value = 1.5; i.oninput(); })($('sliders').querySelector('input'))")
    until(lambda: tab.value("state.action[0]") == 1.5, what="the slider")


def test_charts_are_drawn(tab):
    until(lambda: number(tab, "since") > 3, what="dreaming")
    for chart in ("rewards", "doubts"):
        drawn = f"(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x))($('{chart}'))"
        until(lambda drawn=drawn: tab.value(drawn), what=f"drawing {chart}")


def test_screens_stand_side_by_side_or_stack_on_a_phone_in_light_or_dark(tab):
    box = "(id => $(id).getBoundingClientRect())"
    tab.size(1200, 900)
    assert tab.value(f"{box}('dream-card').top == {box}('real-card').top")
    light = tab.value("getComputedStyle(document.body).backgroundColor")
    tab.size(390, 844, dark=True)
    assert tab.value(f"{box}('dream-card').bottom <= {box}('real-card').top")
    assert tab.value(f"{box}('actions').bottom <= 844")  # in reach without scrolling
    assert tab.value("document.documentElement.scrollWidth <= 390")
    assert tab.value("getComputedStyle(document.body).backgroundColor") != light


def test_another_client_and_a_dropped_one_do_no_harm(tab, port):
    tab.key("ArrowRight", True)
    other = Client(port)
    other.frame()
    other.socket.send("nonsense")
    other.frame(ack=False)
    before = frame(tab)
    until(lambda: frame(tab) > before + 3, what="going on")
    other.socket.socket.close()
    before = frame(tab)
    until(lambda: frame(tab) > before + 3, what="going on")
    assert tab.value("state.action[0]") == 2


def test_the_dream_alone_says_why_it_is_alone_and_one_can_connect_again(chromium):
    with serving(walk(fps=30)) as port:
        tab = chromium.tab()
        tab.open(f"http://127.0.0.1:{port}/")
        until(lambda: frame(tab) > 1, what="playing")
        assert tab.text("why") == "it was not asked for"
        assert tab.value("$('real-card').hidden && $('resync').hidden && $('policy').hidden && $('record').hidden")
        tab.value("socket.close()")
        until(lambda: tab.text("link-text") == "not connected", what="the end")
        tab.click("again")
        until(lambda: tab.text("link-text") == "connected" and tab.value("state.step < 30"), what="the connection")
        assert tab.errors == []
        tab.close()


def test_a_page_of_another_site_cannot_play(chromium, port):
    tab = chromium.tab()  # an empty page has the origin "null"
    script = f"""new Promise(done => {{
        const foreign = new WebSocket('ws://127.0.0.1:{port}/play');
        foreign.onopen = () => done('open');
        foreign.onerror = () => done('refused');
    }})"""
    assert tab.value(script) == "refused"
    tab.close()
