"""`headrace archive`: pack a model, or look into an archive.

The options are those of `torch-model-archiver` and, with `--model-path`, of `model-archiver`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.errors import InvalidOption

RUNTIMES = ("python", "python2", "python3", "LSP")
FORMATS = ("default", "zip-store", "tgz", "no-archive")


def archive(
    model_name: Annotated[str | None, typer.Option(help="Name of the model, and of the archive.")] = None,
    version: Annotated[str | None, typer.Option("--version", "-v", help="Version of the model, such as 1.0.")] = None,
    handler: Annotated[
        str | None, typer.Option(help="MODULE[.py][:FUNCTION], or the name of a built-in handler.")
    ] = None,
    serialized_file: Annotated[str | None, typer.Option(help="Weights: .onnx, .pt, .pth, .pt2.")] = None,
    model_file: Annotated[str | None, typer.Option(help="Python file with the network's class.")] = None,
    extra_files: Annotated[
        str | None,
        typer.Option(help="Comma-separated: files, folders (what is in them goes to the top), patterns."),
    ] = None,
    requirements_file: Annotated[str | None, typer.Option("--requirements-file", "-r", help="Packages needed.")] = None,
    config_file: Annotated[str | None, typer.Option("--config-file", "-c", help="The model's YAML.")] = None,
    model_path: Annotated[
        str | None, typer.Option(help="Folder that is packed whole, as model-archiver does, instead of single files.")
    ] = None,
    runtime: Annotated[str, typer.Option(help=f"One of: {', '.join(RUNTIMES)}.")] = "python",
    export_path: Annotated[str, typer.Option(help="Folder the archive is put in.")] = ".",
    archive_format: Annotated[
        str, typer.Option(help=f"One of: {', '.join(FORMATS)}. default: NAME.mar; tgz: NAME.tar.gz; no-archive: NAME/.")
    ] = "default",
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite an archive that is there.")] = False,
    convert: Annotated[bool, typer.Option("--convert", help="model-archiver's; refused, with the reason.")] = False,
    inspect: Annotated[str | None, typer.Option(metavar="FILE", help="Show what is in an archive, and exit.")] = None,
) -> None:
    """Pack a model into an archive that Headrace, TorchServe or MMS serves; or look into one."""
    if inspect is not None:
        _show(inspect)
        return
    _one_of("--runtime", runtime, RUNTIMES)
    _one_of("--archive-format", archive_format, FORMATS)
    if model_name is None or handler is None:
        raise InvalidOption("--model-name and --handler are needed (or --inspect FILE, to look into an archive)")
    if convert or (model_path is not None and config_file is not None):
        raise InvalidOption(
            "--convert (-c beside --model-path) made MXNet models of ONNX ones; ONNX models are served as they are, so "
            "leave it out"
        )
    from headrace.archives.packing import write_archive

    single = {
        "--serialized-file": serialized_file,
        "--model-file": model_file,
        "--extra-files": extra_files,
        "--requirements-file": requirements_file,
        "--version": version,
    }
    target: Path
    if model_path is not None:
        said = [flag for flag, value in single.items() if value is not None]
        if said:
            raise InvalidOption(f"--model-path packs a folder whole; {', '.join(said)} cannot be given beside it")
        target, contents, manifest = _whole_folder(
            model_name, handler, model_path, runtime, export_path, archive_format, force
        )
    else:
        if version is None:
            raise InvalidOption("--version is needed (or --model-path, to pack a folder as model-archiver does)")
        target, contents, manifest = _single_files(
            model_name, handler, version, single, config_file, runtime, export_path, archive_format, force
        )
    write_archive(target, model_name, contents, manifest, archive_format, force=force)
    print(target)


def _single_files(
    name: str,
    handler: str,
    version: str,
    files: dict[str, str | None],
    config_file: str | None,
    runtime: str,
    export_path: str,
    archive_format: str,
    force: bool,
) -> tuple[Path, Any, dict[str, Any]]:
    from headrace.archives.declaration import torchserve_manifest
    from headrace.archives.packing import Contents, created_now, target_of

    _one_of("--runtime", runtime, ("python", "python3", "LSP"))
    manifest = torchserve_manifest(
        name=name,
        version=version,
        handler=handler,
        created=created_now(),
        serialized_file=files["--serialized-file"],
        model_file=files["--model-file"],
        requirements_file=files["--requirements-file"],
        config_file=config_file,
        runtime=runtime,
    )
    target = target_of(name, archive_format, export_path, force=force)
    contents = Contents()
    contents.add_handler(handler, runtime)
    for file in (files["--model-file"], files["--serialized-file"], files["--requirements-file"], config_file):
        if file is not None:
            contents.add(file)
    if files["--extra-files"] is not None:
        contents.add_extra(files["--extra-files"])
    return target, contents, manifest


def _whole_folder(
    name: str, handler: str, model_path: str, runtime: str, export_path: str, archive_format: str, force: bool
) -> tuple[Path, Any, dict[str, Any]]:
    from headrace.archives.declaration import OURS, handler_file, mms_manifest
    from headrace.archives.packing import Contents, target_of

    _one_of("--runtime", runtime, ("python", "python2", "python3"))
    manifest = mms_manifest(name=name, handler=handler, runtime=runtime)
    target = target_of(name, archive_format, export_path, force=force)
    folder = Path(model_path)
    if not folder.is_dir():
        raise InvalidOption(f"--model-path {folder} is not a folder")
    contents = Contents()
    inside = target if target.resolve() != folder.resolve() else None
    contents.add_folder(folder.absolute(), without=frozenset({"MANIFEST.json"}), endings=(".mar",), besides=inside)
    file = handler_file(handler)
    # As model-archiver looks for it: `./service`, or an absolute path, are files in the folder as well.
    there = file is None or (folder / file).resolve() in {path.resolve() for path in contents.files.values()}
    if not there and handler not in OURS:
        raise InvalidOption(f"--handler {handler}: there is no {file} in {folder}")
    return target, contents, manifest


def _one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidOption(f"{flag} is one of {', '.join(known)}, not {value!r}")


def _show(path: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from headrace.archives.inspecting import inspect
    from headrace.cli.showing import plain
    from headrace.wording import count_of

    found = inspect(path)
    console = Console()
    about = Table(title=plain(f"{path}: {found.kind}"), title_justify="left", show_header=False)
    if found.manifest is None or found.manifest.raw is None:
        about.add_row("manifest", "none: name and handler come with the registration")
    else:
        for key, value in _flat(found.manifest.raw):
            about.add_row(plain(key), plain(value))
    console.print(about)
    files = Table(title=f"{count_of(len(found.files), 'file')}, {found.nbytes:,} bytes", title_justify="left")
    files.add_column("file", overflow="fold")
    files.add_column("bytes", justify="right")
    for name, nbytes in found.files:
        files.add_row(plain(name), f"{nbytes:,}")
    console.print(files)


def _flat(values: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """`model.modelName`, and what it is."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        rows += _flat(value, f"{before}{key}.") if isinstance(value, dict) else [(f"{before}{key}", str(value))]
    return rows
