"""Looks at the web console with a real browser: chromium, spoken to over a pipe. Needs nothing but Python and chromium.

usage: console_browser.py NOKV WORKDIR [--shots DIR]

Started by console.sh. The same page is looked at with no meta-root, with a thousand made-up regions whose keys try to be
markup, by keyboard alone, narrow and dark, and while its coordinator dies and comes back.
"""
import base64
import fcntl
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

ADDR, HTTP = "127.0.0.1:24377", "127.0.0.1:24379"
OFFSET = 23_000  # of the ports of the real cluster
ROOTS = [f"--root-peer={node}=127.0.0.1:{24400 + node}" for node in (1, 2, 3)]


def chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One tab. Commands go to file descriptor 3 of the browser, answers come from 4, each ended by a zero byte."""

    def __init__(self, workdir):
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, from_write)]

        def place():
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                 "--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-pipe",
                 f"--user-data-dir={workdir}/browser", "about:blank"]
        log = open(f"{workdir}/browser.log", "wb")
        self.process = subprocess.Popen([chromium(), *flags], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                        preexec_fn=place, pass_fds=(3, 4))
        for end in (to_read, from_write, *ends):
            os.close(end)
        self.out, self.into = os.fdopen(to_write, "wb", 0), os.fdopen(from_read, "rb", 0)
        self.rest, self.number, self.complaints, self.answers = b"", 0, [], None
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        self.session = None
        self.session = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(domain + ".enable")

    def send(self, method, **params):
        self.number += 1
        number, message = self.number, {"id": self.number, "method": method, "params": params}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def receive(self):
        while b"\0" not in self.rest:
            part = self.into.read(1 << 20)
            if not part:
                raise RuntimeError("the browser is gone")
            self.rest += part
        text, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(text)
        self.noticed(message)
        return message

    def noticed(self, message):
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:400])
        elif method == "Log.entryAdded" and params["entry"]["source"] in ("security", "javascript"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Fetch.requestPaused":
            made = self.answers(params["request"]["url"])
            reply = {"responseCode": 200, "body": base64.b64encode(made.encode()).decode()} if made is not None else None
            self.number += 1
            ask = {"id": self.number, "sessionId": self.session, "params": {"requestId": params["requestId"], **(reply or {})},
                   "method": "Fetch.fulfillRequest" if reply else "Fetch.continueRequest"}
            self.out.write(json.dumps(ask).encode() + b"\0")

    def pretend(self, answers):
        """From now on `answers(url)` answers what the page asks for; None for a call: the server does."""
        self.answers = answers
        if answers:
            self.send("Fetch.enable", patterns=[{"urlPattern": "*/api/*"}])
        else:
            self.send("Fetch.disable")

    def view(self, wide, high, scheme="light"):
        self.send("Emulation.setDeviceMetricsOverride", width=wide, height=high, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url):
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script):
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, script, patience=15):
        end = time.monotonic() + patience
        while not self.run(f"Boolean({script})"):
            if time.monotonic() > end:
                raise AssertionError(f"not within {patience} s: {script}\n" + str(self.run("document.body.innerText"))[:1500])
            time.sleep(0.1)

    def press(self, key, shift=False):
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39,
                 "Home": 36, "End": 35}
        text = key if len(key) == 1 else "\r" if key == "Enter" else ""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, text=text if kind == "keyDown" else "",
                      windowsVirtualKeyCode=codes.get(key, ord(key[0])), modifiers=8 if shift else 0)

    def type(self, text):
        for letter in text:
            self.press(letter)

    def shot(self, path, whole=True):
        area = {}
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            area = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **area)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self):
        self.process.terminate()
        self.process.wait(20)


def key64(text):
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


EVIL = b"</script><img src=x onerror=\"document.title='owned'\">"


def cluster(regions=1000, stores=6, dead=None, turn=0, evil=False):
    """What /api/cluster would say of a cluster that is larger than this machine."""
    rows, count = [], regions
    keys = [""] + [f"user/{n * 37 % 9973:05d}/{n:04d}" if n % 7 else f"order/{n:06d}" for n in range(1, count)]
    keys = [b""] + sorted(key.encode() for key in keys[1:])
    if evil:
        keys[1:4] = sorted([EVIL, b"a\x00\xff\x01\x02\xfe", b"<b>bold</b>"])
        keys.sort()
    sums = {store: [0, 0, 0, 0, 0] for store in range(1, stores + 1)}
    for at, key in enumerate(keys):
        peers = [1 + (at * 5 + step * (1 + at % 2)) % stores for step in range(3)]
        leader = next(store for store in peers if store != dead)
        bytes_ = (at * 7919 % 90 + 4) << 20
        hot = (at % 97 == 5) * 900 + (at % 13 == 0) * 60
        requests = int(hot * (1 + .25 * math.sin(turn / 6 + at % 7) + .06 * ((turn * 7 + at) % 5)))
        flags = (8 if at % 211 == 7 else 0) | (16 if dead in peers else 0) | (32 if at % 331 == 9 else 0)
        for store in peers:
            sums[store][0] += 1
            sums[store][2] += bytes_
        for index, value in ((1, 1), (3, requests), (4, requests / 4)):
            sums[leader][index] += value
        flat = [number for store in peers for number in (store, store * 10000 + at)]
        rows.append([at + 1, key64(key), None if at + 1 < count else "", 3, 5, flat, leader, bytes_, requests,
                     round(requests / 4, 1), at % 4, flags])
    row = lambda store, sum_: {
        "id": store, "addr": f"10.0.0.{store}:20160", "up": store != dead, "age_ms": 41_000 if store == dead else 900,
        "answers": store != dead, "error": "connection refused" if store == dead else None, "capacity": 1 << 40,
        "available": (1 << 40) * (11 - store) // 13, "peers": sum_[0], "leaders": sum_[1], "bytes": sum_[2],
        "requests": sum_[3], "writes": sum_[4], "decommissioning": False, "read_only": False}
    tokens = {"term": 4, "index": 18231 + turn, "revision": 18231 + turn}
    now = 1_790_000_000_000
    problems = [] if dead is None else [{
        "level": "degraded", "next": "nokv operators",
        "text": f"store-{dead} at 10.0.0.{dead}:20160 has sent no heartbeat for 41 s. Its {sums[dead][0]} replicas are replaced in 29 min unless it comes back."}]
    operators = [
        {"id": 41, "kind": "move-peer", "region": 17, "from": 2, "to": 5, "state": "running", "age_ms": 12_300, "took_ms": 0,
         "reason": "store 2 holds 531 replicas and store 5 holds 489", "progress": "peer 50016 on store 5 catches up"},
        {"id": 40, "kind": "transfer-leader", "region": 3, "from": 1, "to": 4, "state": "done", "age_ms": 60_000, "took_ms": 1_400,
         "reason": "store 1 leads 180 regions and store 4 leads 151", "progress": "done"}]
    return {
        "format": 1, "since": f"1.{turn}", "full": True, "gone": [], "wall_ms": now, "asked": True,
        "self": {"id": "coordinator-1", "addr": "10.0.1.1:2379", "holds_lease": True, "standby": None},
        "health": {"state": "degraded" if problems else "healthy", "problems": problems},
        "totals": {"regions": count, "bytes": sum(r[7] for r in rows), "requests": sum(r[8] for r in rows),
                   "writes": round(sum(r[9] for r in rows)), "replica_lag": 2 + turn * 7 % 5, "root_lag": int(turn % 13 == 5), "replicas_wanted": 3},
        "roots": [{"id": n, "addr": f"10.0.1.{n}:2380", "answers": True, "error": None, "leader": n == 2, "term": 4,
                   "applied": 18231 + turn} for n in (1, 2, 3)],
        "coordinators": [{"id": f"coordinator-{n}", "addr": f"10.0.1.{n}:2379", "self": n == 1, "answers": True,
                          "holds_lease": n == 1, "root_lag": 0, "root_available": True, "console": f"10.0.1.{n}:9379"} for n in (1, 2, 3)],
        "stores": [row(*item) for item in sums.items()],
        "state": {
            "lease": {"holder_id": "coordinator-1", "phase": "active", "cert_generation": 6, "ttl_nanos": 10**10,
                      "renew_before_nanos": 3 * 10**9, "held_by_self": True, "usable_by_self": True},
            "allocator": {"id_current": 100412, "id_window_high": 101000, "tso_current": str(now << 18), "tso_window_high": str((now + 3000) << 18)},
            "root": {"available": True, "root_lag": int(turn % 13 == 5), "served_token": tokens, "current_token": tokens, "last_reload_error": ""},
            "gc": {"target": str((now - 600_000) << 18), "safe_point": str((now - 675_000) << 18), "holds": 1, "life_ms": 600_000},
            "seal": {"cert_generation": 5, "holder_id": "coordinator-2", "by_root": True},
            "audit": {"seal_generation": 5, "successor_present": True, "closure_stage": "reattached", "closure_defect": "", "closure_satisfied": True,
                      "successor_frontier_coverage": [{"duty_name": "alloc_id", "covered": True}, {"duty_name": "tso", "covered": True}, {"duty_name": "get_region_by_key", "covered": True}]}},
        "operators": operators, "waiting": [], "transitions": [{"id": "peer:17:add:5:50016", "region": 17, "planned": False, "seen_ms": 11_000}],
        "regions": rows}


def region(of, number):
    at = next(at for at, row in enumerate(of["regions"]) if row[0] == number)
    row, end = of["regions"][at], (of["regions"] + [[0, ""]])[at + 1][1]
    replica = lambda store, peer: {
        "store": store, "peer": peer, "role": "leader" if store == row[6] else "voter", "leaving": False, "quarantined": False,
        "silent": False, "up": True, "term": 5, "applied": 8812, "lag": 0, "heard_ms": 700}
    pairs = zip(row[5][::2], row[5][1::2])
    return {"id": number, "start": row[1], "end": end, "version": 3, "conf_version": 5, "root_epoch": 12, "merging": False,
            "leader": row[6], "fill": 412, "bytes": row[7], "measured": True, "requests": row[8], "writes": row[9], "replicas": [replica(*pair) for pair in pairs],
            "operators": [], "transitions": []}


class Pretender:
    """Answers as a large cluster would, a little different each time."""

    def __init__(self, **what):
        self.what, self.turn = what, 0

    def __call__(self, url):
        made = cluster(turn=self.turn, **self.what)
        wanted = re.search(r"/api/region\?id=(\d+)", url)
        if wanted:
            return json.dumps(region(made, int(wanted[1])))
        self.turn += 1
        return json.dumps(made)


def coordinator(nokv, workdir):
    log = open(f"{workdir}/coordinator.log", "ab")
    started = subprocess.Popen([nokv, "coordinator", "--coordinator-id=c1", f"--addr={ADDR}", f"--metrics-addr={HTTP}", *ROOTS],
                               stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://{HTTP}/", timeout=5).read()
            return started
        except OSError:
            time.sleep(0.1)
    started.kill()
    raise AssertionError("the coordinator does not serve its page; see " + log.name)


def check(is_so, what):
    if not is_so:
        raise AssertionError(what)
    print("ok  ", what, flush=True)


def headers():
    reply = urllib.request.urlopen(f"http://{HTTP}/console", timeout=5)
    policy, page = reply.headers["content-security-policy"], reply.read().decode()
    nonce = re.search(r"script-src 'nonce-(\w+)'", policy)[1]
    check("default-src 'none'" in policy and f'nonce="{nonce}"' in page, "the page comes with a strict policy and its nonce")
    check(len(page) < 120 << 10, f"the page is {len(page)} bytes")
    told = json.load(urllib.request.urlopen(f"http://{HTTP}/api/cluster", timeout=5))
    check(told["format"] == 1 and told["regions"] == [], "/api/cluster answers with no meta-root there")
    for bad in ("", "?id=", "?id=x", "?id=-1", "?id=99999999999999999999"):
        status = status_of(f"http://{HTTP}/api/region{bad}")
        check(status == 400, f"/api/region{bad} is refused")
    check(status_of(f"http://{HTTP}/api/region?id=7") == 404, "a region that is not there is not found")
    check(status_of(f"http://{HTTP}/api/cluster?since=%22%3E%3Cb%3E") == 200, "a bad revision gets everything")


def status_of(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code


def without_roots(tab):
    tab.view(1280, 900)
    tab.open(f"http://{HTTP}/")
    tab.until("document.getElementById('health-word').textContent.includes('wrong')")
    text = tab.run("document.getElementById('problems').innerText")
    check("cannot reach the meta-roots" in text or "no quorum" in text, "a coordinator without meta-roots says so")
    tab.until("document.querySelectorAll('#roots .down').length === 3")
    check(True, "three dead meta-roots are shown as such")


def by_keyboard(tab):
    tab.pretend(Pretender(evil=True))
    tab.open(f"http://{HTTP}/")
    tab.until("model.regions.size === 1000 && document.querySelector('#region-table tbody tr')")
    tab.press("Tab")
    check(tab.run("document.activeElement.className") == "skip", "the first stop is the skip link")
    tab.press("?", shift=True)
    check(tab.run("document.getElementById('help').open"), "? opens the help")
    tab.press("Escape")
    check(not tab.run("document.getElementById('help').open"), "Escape closes it")
    tab.press("m")
    tab.press("End")
    check(tab.run("document.getElementById('space').getAttribute('aria-valuenow')") == "1000", "End goes to the last region of the map")
    tab.press("ArrowLeft")
    words = tab.run("document.getElementById('space').getAttribute('aria-valuetext')")
    check("region 999" in words and "led by store-" in words, "the map says in words where it is: " + words[:60])
    check(not tab.run("document.getElementById('tip').hidden"), "and shows it")
    tab.press("Enter")
    tab.until("document.getElementById('region').open && document.querySelectorAll('#region-body tbody tr').length === 3")
    check("Region 999" in tab.run("document.getElementById('region-title').textContent"), "Enter opens the region with its replicas")
    tab.press("Escape")
    tab.press("/")
    tab.type("user/0")
    tab.until("document.getElementById('found').textContent.includes('of')")
    found = tab.run("[...document.querySelectorAll('#region-table tbody tr')].map(row => row.children[1].textContent)")
    check(found and all('"user/0' in key for key in found[1:]), f"a prefix finds {len(found)} regions")
    tab.press("Escape")
    tab.type("17")
    check(tab.run("document.querySelector('#region-table tbody tr td').textContent") == "17", "a number finds the region")
    tab.press("Escape")
    check(tab.run("document.getElementById('search').value") == "", "Escape empties the search")
    tab.run("document.activeElement.blur()")
    tab.press("s")
    tab.press("ArrowDown")
    check(tab.run("document.activeElement.textContent").startswith("store-2"), "arrows walk through the stores")
    tab.run("[...document.querySelectorAll('#region-table th button')].find(one => one.textContent === 'Requests/s').click()")
    top = tab.run("[...document.querySelectorAll('#region-table tbody tr')].slice(0, 3).map(row => Number(row.children[6].textContent.replace(/\\D/g, '')))")
    check(top == sorted(top, reverse=True) and top[0] > 900, f"a title sorts: {top}")
    tab.press("t")
    check(tab.run("document.documentElement.dataset.theme") == "light", "t changes the theme")
    tab.press("t")
    tab.press("t")
    tab.press("p")
    check(tab.run("document.getElementById('pause').textContent") == "Go on", "p pauses")
    tab.press("p")


def keys_are_no_markup(tab):
    tab.run("search('')")
    tab.run("[...document.querySelectorAll('#region-table th button')].find(one => one.textContent === 'From').click()")
    text = tab.run("document.getElementById('region-table').textContent")
    check("<b>bold</b>" in text and "onerror" in text, "keys that look like markup are shown as they are")
    check(tab.run("document.querySelectorAll('main img, main b b, #region-table b').length") == 0, "and are none")
    check("owned" not in tab.run("document.title"), "and run nothing")
    evil = tab.run("model.sorted.find(region => startText(region).includes('onerror')).id")
    tab.run(f"openRegion({evil})")
    tab.until("document.getElementById('region-body').textContent.includes('onerror')")
    check(tab.run("document.querySelectorAll('#region-body img').length") == 0, "not in the details either")
    tab.run("document.getElementById('region').close()")
    shown = tab.run("""[[0, 255, 1], [104, 105], [], [0xe2, 0x80, 0xae, 97], [0xc3, 0xa9], [104, 105, 106, 0]]
        .map(key => keyForPeople(Uint8Array.from(key)).text)""")
    want = ["0x00ff01", '"hi"', '""', "0xe280ae61", '"é"', '"hij\\x00"']
    check(shown == want, f"keys for people: {shown}")
    holds = tab.run("""(() => { const bytes = text => new TextEncoder().encode(text), range = (a, b) => ({ start: bytes(a), end: bytes(b) });
        return [holds(range('', ''), bytes('x')), holds(range('b', 'd'), bytes('a')), holds(range('b', 'd'), bytes('d')),
            holds(range('bb', 'bd'), bytes('b')), holds(range('b', 'd'), bytes('ca'))]; })()""")
    links = tab.run("""['h:1', '0.0.0.0:9', '[::1]:7', 'javascript:alert(1)//:80', '', 'a b:1', 'x/y:2', null]
        .map(console => consoleOf({ console, addr: 'c1:2379' }))""")
    check(links == ["http://h:1/", "http://c1:9/", "http://[::1]:7/", None, None, None, None, None], f"links lead to consoles only: {links}")
    check(holds == [True, False, False, True, True], "a range holds a key or what begins with it")


def sizes(tab, shots):
    tab.pretend(Pretender(dead=3))
    for wide, scheme in ((1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")):
        tab.view(wide, 900, scheme)
        tab.open(f"http://{HTTP}/")
        tab.until("model.regions.size === 1000 && document.querySelectorAll('#problems li').length === 1")
        over = tab.run("document.scrollingElement.scrollWidth - innerWidth")
        check(over <= 0, f"nothing sticks out at a width of {wide} ({scheme})")
        check(tab.run("document.querySelectorAll('#stores .down').length") == 1, "the dead store is marked")
        if shots:
            time.sleep(7)
            tab.shot(f"{shots}/large-{wide}-{scheme}.png")
    tab.view(1440, 900)
    tab.pretend(Pretender(regions=10_000, stores=20))
    tab.open(f"http://{HTTP}/")
    tab.until("model.regions.size === 10000 && map.cells.length > 1000", 30)
    took = tab.run("(() => { const began = performance.now(); showAll(); return performance.now() - began; })()")
    check(took < 1000, f"ten thousand regions are drawn in {took:.0f} ms")
    if shots:
        tab.shot(f"{shots}/huge.png")
    tab.pretend(None)


def death_and_return(tab, nokv, workdir, running, shots):
    tab.open(f"http://{HTTP}/")
    tab.until("model.head !== null")
    running.kill()
    running.wait()
    tab.until("!document.getElementById('stale').hidden", 30)
    text = tab.run("document.getElementById('stale').textContent")
    check("does not answer" in text and "What you see is from" in text, "a dead server is said: " + text[:70])
    age = tab.run("document.getElementById('age').textContent")
    check("s ago" in age, "with the age of what is shown: " + age)
    if shots:
        tab.shot(f"{shots}/deaf.png", whole=False)
    again = coordinator(nokv, workdir)
    try:
        tab.until("document.getElementById('stale').hidden", 30)
        check(True, "and it goes on when the server is back")
    finally:
        again.terminate()
        again.wait()


def real(tab, nokv, workdir, shots):
    """A cluster of three stores, one of which dies."""
    log = f"{workdir}/demo.log"
    demo = subprocess.Popen([nokv, "demo", "--dir", f"{workdir}/demo", f"--port-offset={OFFSET}"], stdout=open(log, "wb"),
                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        for _ in range(600):
            text = open(log).read()
            if "console: " in text or demo.poll() is not None:
                break
            time.sleep(0.1)
        url = re.search(r"console: (http://\S+)", text)
        check(url, "the demo prints where its console is")
        url = url[1]
        cli = {**os.environ, "NOKV_COORDINATOR_ADDR": f"127.0.0.1:{2379 + OFFSET}"}
        tab.view(1440, 900)
        tab.open(url)
        tab.until("document.getElementById('health-word').textContent === 'Healthy' && model.head.asked", 30)
        check(True, "a real cluster is healthy")
        bench = subprocess.Popen([nokv, "bench", "--clients=4", "--seconds=14", "--value-size=128"], env=cli,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        tab.until("model.head.totals.requests > 10 && model.head.totals.writes > 10", 20)
        check(tab.run("document.querySelectorAll('#hot li').length") > 0, "its load is seen, and where it is")
        before = tab.run("model.since")
        sent = tab.run("fetch('api/cluster?since=' + model.since).then(reply => reply.text()).then(text => text.length)")
        check(sent < 20_000 and before, f"what is new is {sent} bytes")
        tab.run("openRegion(model.sorted[0].id)")
        tab.until("document.querySelectorAll('#region-body tbody tr').length === 3")
        check(True, "a real region shows its replicas")
        tab.run("document.getElementById('region').close()")
        bench.wait()
        pid = int(re.search(r"store-2\s+(\d+)", text)[1])
        os.kill(pid, signal.SIGKILL)
        tab.until("document.getElementById('problems').textContent.includes('store-2 does not answer')", 20)
        tab.until("model.sorted.every(region => region.leader !== 0 && region.leader !== 2)", 40)
        check(True, "a dead store is told within seconds, and who leads instead")
        if shots:
            tab.shot(f"{shots}/dead-store.png")
        holder = tab.run("(one => one.self ? location.href : consoleOf(one))(model.head.coordinators.find(one => one.holds_lease))")
        if holder == url:
            tab.run("location.href = consoleOf(model.head.coordinators.find(one => !one.self))")
        tab.until("typeof model !== 'undefined' && model.head && !model.head.self.holds_lease && document.querySelector('#standby a')", 20)
        link = tab.run("document.querySelector('#standby a').href")
        check(link == holder, f"a standby links to the holder of the lease: {link}")
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(60)


def main():
    nokv, workdir = sys.argv[1:3]
    shots = sys.argv[4] if sys.argv[3:4] == ["--shots"] else None
    running, tab = coordinator(nokv, workdir), None
    try:
        headers()
        tab = Browser(workdir)
        without_roots(tab)
        by_keyboard(tab)
        keys_are_no_markup(tab)
        sizes(tab, shots)
        real(tab, nokv, workdir, shots)
        check(tab.complaints == [], f"the browser has nothing to complain of {tab.complaints}")
        death_and_return(tab, nokv, workdir, running, shots)
    finally:
        running.kill()
        if tab:
            tab.close()


if __name__ == "__main__":
    main()
