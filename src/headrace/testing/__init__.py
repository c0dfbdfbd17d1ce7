"""For tests, ours and yours: a gate, a clock that stands still, an archive, a server in a process of its own."""

from headrace.testing.archives import make_archive as make_archive
from headrace.testing.clock import FakeClock as FakeClock
from headrace.testing.gate import Gate as Gate
from headrace.testing.server import RunningServer as RunningServer
from headrace.testing.server import run_command as run_command
from headrace.testing.server import run_server as run_server
