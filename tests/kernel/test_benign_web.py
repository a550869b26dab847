"""Web servers and their clients raise nothing above `low`: nginx, also as a reverse proxy, curl, git over HTTP."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from benign_helpers import OUTSIDE, PYTHON, Place, Site, Work, free_port, git_round

pytestmark = pytest.mark.kernel

CONFIGURATION = """\
daemon off; user root; worker_processes 2; pid {directory}/pid; error_log stderr;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  upstream behind {{ server 127.0.0.1:{behind}; keepalive 4; }}
  server {{
    listen {address}:{port}; listen [{address6}]:{port};
    listen {address}:{tls_port} ssl http2; {sidecar}
    server_name site.test; ssl_certificate {directory}/cert.pem; ssl_certificate_key {directory}/key.pem;
    root {directory}/files;
    location /old {{ return 301 /; }}
    location /app/ {{ proxy_pass http://behind/; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    location /far/ {{ proxy_pass http://{node}:{far}/; }}
    location /api/ {{
      proxy_pass http://127.0.0.1:{notebook}; proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Web:
    """nginx on the peer: files, a reverse proxy to servers on its loopback (/app, /api) and on the node (/far)."""

    place: Place
    server: Work
    port: int
    tls_port: int

    @property
    def url(self) -> str:
        return f"http://{self.place.peer.address}:{self.port}"


@pytest.fixture(scope="module")
def web(site: Site, place: Place) -> Web:
    server, peer = site.work("nginx"), place.peer
    ports = {name: free_port() for name in ("port", "tls_port", "behind", "far", "notebook")}
    files = server.directory / "files"
    files.mkdir()
    (files / "index.html").write_text("welcome\n")
    (files / "large").write_bytes(bytes(4 << 20))
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=site.test")
    names = ("-addext", "subjectAltName=DNS:site.test", "-keyout", "key.pem", "-out", "cert.pem")
    subprocess.run(["openssl", "req", "-x509", *new, *names], check=True, capture_output=True, cwd=server.directory)
    addresses = {"address": peer.address, "address6": peer.address6, "node": place.node.address}
    sidecar = "" if place.scope == "loopback" else f"listen 127.0.0.1:{ports['port']};"
    text = CONFIGURATION.format(directory=server.directory, sidecar=sidecar, **addresses, **ports)
    (server.directory / "nginx.conf").write_text(text)
    server.serve_files(peer, ports["behind"], "127.0.0.1", files)
    server.serve_files(place.node, ports["far"], place.node.address, files)
    server.serve(peer, "notebook_server.py", ports["notebook"])
    server.start(peer, "nginx", "-p", server.directory, "-c", "nginx.conf", "-e", "stderr")
    server.listening(peer, ports["port"], peer.address)
    return Web(place, server, ports["port"], ports["tls_port"])


def test_curl(site: Site, web: Web) -> None:
    work, node, peer = site.work("curl"), web.place.node, web.place.peer
    assert work.run(node, "curl", "-sSL", f"{web.url}/old", f"{web.url}/") == "welcome\n" * 2
    assert work.run(node, "curl", "-sS", f"http://[{peer.address6}]:{web.port}/") == "welcome\n"
    work.run(node, "curl", "-sS", "-C", "1000000", "-o", "large", f"{web.url}/large")
    named = ("--cacert", web.server.directory / "cert.pem", "--resolve", f"site.test:{web.tls_port}:{peer.address}")
    secure = f"https://site.test:{web.tls_port}"
    for version in ("--http1.1", "--http2"):
        shown = work.run(
            node, "curl", "-sS", version, *named, "-w", "%{http_version}\n", f"{secure}/app/", f"{secure}/"
        )
        assert shown.endswith(f"welcome\n{'2' if version == '--http2' else '1.1'}\n")
    work.quiet("curl", connects=[("/curl", web.place.scope)])
    said = {event["ApplicationProtocol"] for event in work.seen("network_payload", Image="/curl")}
    assert {"http", "tls"} <= said


def test_many_clients_of_nginx_and_of_what_is_behind_it(site: Site, web: Web) -> None:
    work, node = site.work("clients"), web.place.node
    for path, at_once in (("", "20"), ("app/", "4"), ("far/", "4")):  # Python's server has a backlog of five
        page = f"{web.url}/{path}?[1-30]"
        parallel = ("-Z", "--parallel-immediate", "--parallel-max", at_once)
        assert work.run(node, "curl", "-sS", *parallel, page, page) == "welcome\n" * 60
    work.quiet("curl", connects=[("/curl", web.place.scope)])
    assert web.server.seen("network_connection", Image="/nginx", DestinationScope="loopback")
    assert web.server.seen("network_connection", Image="/nginx", DestinationScope=web.place.scope)


@OUTSIDE
def test_a_proxy_on_loopback_to_another_host(site: Site, web: Web) -> None:
    work = site.work("sidecar")
    page = f"http://127.0.0.1:{web.port}/far/?[1-5]"
    assert work.run(web.place.peer, "curl", "-sS", page) == "welcome\n" * 5
    work.quiet("curl", connects=[("/curl", "loopback")])


@OUTSIDE
def test_many_clients_of_pythons_server(site: Site, web: Web) -> None:
    work, port = site.work("http-server"), free_port()
    work.serve_files(web.place.node, port, web.place.node.address, web.server.directory / "files")
    fetch = ("xargs", "-P4", "-n1", "curl", "-sS")
    pages = "\n".join(f"http://{web.place.node.address}:{port}/?{number}" for number in range(24))
    assert work.run(web.place.peer, *fetch, text=pages) == "welcome\n" * 24
    work.quiet("curl", PYTHON[1:], connects=[("/curl", web.place.scope)])


def test_a_notebook_through_the_proxy(site: Site, web: Web) -> None:
    work, host = site.work("browser"), web.place.peer.address
    assert work.python(web.place.node, "notebook_browser.py", host, web.port) == "\n42\nlinux\n"
    work.quiet(connects=[(PYTHON, web.place.scope)])
    assert work.seen("network_payload", ApplicationProtocol="websocket")
    assert web.server.seen("process_creation", Image="/tr"), "the cell's shell"


def test_git(site: Site, web: Web, tmp_path: Path) -> None:
    work, port = site.work("git"), free_port()
    server = site.work("git-server")
    server.serve(web.place.peer, "git_http_server.py", port, tmp_path)
    url = f"http://{web.place.peer.address}:{port}/project.git"
    git_round(work, web.place.node, tmp_path / "project.git", url)
    work.quiet("git", connects=[("/git-remote-http", web.place.scope)])
    assert server.seen("process_creation", Image="/git", CommandLine="http-backend")
