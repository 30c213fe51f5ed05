"""JupyterLab and a headless Chromium for tests: both start here, and end with the block that asked for them."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from tornado.websocket import websocket_connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 240  # seconds for each wait; on a busy machine the kernel's imports alone take a minute or two


@contextmanager
def started(command: list[str], **options) -> Iterator[subprocess.Popen]:
    """A process that is asked to go at the end, so that it takes its children along; what is left is killed."""
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def waited(get):
    """The first value of `get()` that is no exception and not empty."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            if found := get():
                return found
        except (OSError, ValueError):
            pass
        if time.monotonic() > end:
            raise TimeoutError("the process under test said nothing")
        time.sleep(0.1)


@contextmanager
def jupyter_lab(root: Path, private: Path) -> Iterator[str]:
    """JupyterLab on the folder `root`, without token and with its own settings; yields its address."""
    names = ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
    names += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    places = {name: str(private / name.lower()) for name in names}
    # nothing of who started the tests: a batch run, for one, shows no widgets
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("UNSEG", "JUPYTER", "MPL"))}
    # all cells are on the page, not only those that a window of unknown size would show
    settings = private / "jupyterlab_settings_dir/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')
    options = {"ServerApp.root_dir": root, "ServerApp.port": 0, "ServerApp.open_browser": False}
    options |= {"IdentityProvider.token": "", "ServerApp.allow_root": True, "LabApp.expose_app_in_browser": True}
    options |= {"LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate"}  # no network
    command = [sys.executable, "-m", "jupyter", "lab", *(f"--{name}={value}" for name, value in options.items())]
    with open(private / "lab.log", "w") as log, started(command, env=inherited | places, stdout=log, stderr=log):
        servers = private / "jupyter_runtime_dir"
        yield waited(lambda: json.loads("".join(file.read_text() for file in servers.glob("jpserver-*.json")))["url"])


@contextmanager
def chromium(private: Path, width: int = 1300, height: int = 8000) -> Iterator[str]:
    """A headless Chromium with one empty page; yields the address of the page's DevTools socket."""
    options = ["headless=new", "no-sandbox", "remote-debugging-port=0", f"window-size={width},{height}"]
    options += [f"user-data-dir={private}", "no-first-run", "disable-gpu", "disable-dev-shm-usage"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with started([CHROMIUM, *(f"--{option}" for option in options), "about:blank"], **quiet):
        port = waited(lambda: (private / "DevToolsActivePort").read_text().partition("\n")[0])
        with waited(lambda: urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5)) as pages:
            yield next(page["webSocketDebuggerUrl"] for page in json.load(pages) if page["type"] == "page")


class Page:
    """A page of Chromium through its DevTools protocol."""

    def __init__(self, socket):
        self.socket, self.number = socket, 0

    @classmethod
    async def open(cls, address: str) -> "Page":
        return cls(await websocket_connect(address, max_message_size=1 << 28))

    async def call(self, method: str, **parameters) -> dict:
        self.number += 1
        await self.socket.write_message(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            text = await self.socket.read_message()
            assert text is not None, "Chromium is gone"
            answer = json.loads(text)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    async def js(self, expression: str):
        """The value of an expression; a promise is waited for."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]["exception"].get("description")
        return found["result"].get("value")

    async def until(self, expression: str, patience: float = PATIENCE):
        """Wait for an expression to be true; its value."""
        end = time.monotonic() + patience
        while not (value := await self.js(expression)):
            if time.monotonic() > end:
                seen = await self.js("document.body.innerText.slice(-2000)")
                raise TimeoutError(f"waited in vain for {expression}; the page says: {seen}")
            await asyncio.sleep(0.1)
        return value

    async def mouse(self, *places: tuple[float, float]) -> None:
        """Press at the first place, move over all, release at the last."""
        at = [{"x": x, "y": y, "button": "left", "clickCount": 1} for x, y in places]
        steps = [("mouseMoved", at[0] | {"button": "none"}), ("mousePressed", at[0])]
        steps += [("mouseMoved", one | {"buttons": 1}) for one in at[1:]] + [("mouseReleased", at[-1])]
        for kind, event in steps:
            await self.call("Input.dispatchMouseEvent", type=kind, **event)

    async def key(self, name: str) -> None:
        """Press and release a key in what has the focus."""
        for kind in ("rawKeyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)
