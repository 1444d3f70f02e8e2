"""`distlth export`: a ticket as one file with its slim network."""

from __future__ import annotations

import argparse

from jobs.arguments import Commands, add_run, add_runs, find_run, path_given

FORMATS = ("torch", "safetensors", "onnx", "prune")


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export",
        help="a ticket as a small network, in one file",
        description="Write a trained ticket as a slim network, without the channels that it does not need; "
        "with --format prune as the whole network with its masks, as torch.nn.utils.prune has them.",
    )
    add_run(parser)
    parser.add_argument("ticket", metavar="TICKET", help="such as 03/refill, as `distlth status` names it")
    parser.add_argument("--format", choices=FORMATS, default="torch", help="default: torch (a .pt2 file)")
    parser.add_argument("--out", type=path_given, metavar="FILE", help="default: RUN-TICKET.pt2, here")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    add_runs(parser)
    parser.set_defaults(command=_export)


def _export(options: argparse.Namespace) -> int:
    from distlth.report.console import exported_view, masked_view, show
    from distlth.run.paths import RunPaths

    run = RunPaths(find_run(options.run, options.runs))
    if options.format == "prune":
        from distlth.export.masked import export_masked

        show(masked_view(export_masked(run, options.ticket, out=options.out, overwrite=options.overwrite)))
        return 0
    from distlth.export.export import export

    exported = export(
        run, options.ticket, format=options.format, out=options.out, overwrite=options.overwrite
    )
    show(exported_view(exported))
    return 0
