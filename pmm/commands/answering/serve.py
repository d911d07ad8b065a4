"""`pmm serve`: a run behind HTTP."""

from pmm.commands.from_request import GroupedCommand, make_command
from pmm.errors import InputError
from pmm.serve.serve_options import ServeRequest


def run(request: ServeRequest) -> None:
    """A run behind HTTP: recommendations, new items, a page.

    Items that are added survive any kill. Another model is swapped in without a gap. The calls
    stand at /openapi.json.
    """
    try:
        from pmm.serve.web.http_server import serve
    except ModuleNotFoundError as error:
        raise InputError(
            f"serving needs {error.name}, which is not installed. Run: pip install 'pmmrec[serve]'"
        ) from error
    serve(request)


def command() -> GroupedCommand:
    """The command."""
    return make_command("serve", ServeRequest, run, example="pmm serve hm-shoes-scratch")
