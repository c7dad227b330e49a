"""`python -m experiments.bench [NAME ...] [--json]`: lines `NAME value unit goal ok|short`.

    startup   import and help times
    demo      the main job: wall time, scores, coverage
    radar     the second story
    devices   1 device against 8 simulated ones (2x2x2), five steps
    resume    kill -9 and run again: the loss sequence, bit by bit
    save      what an asynchronous save takes from the step, beside a memory copy
    input     the share of time in which training waits for a batch: demo and synthetic world
    parity    imported models against the torch originals: the largest differences (needs torch)
    vs_torch  prefill, training and greedy text beside torch eager, the same weights (needs torch)
    decode    a step beside the memory-bandwidth floor; ten questions on one image; int8 slots
    import_memory  a 1.5 GB checkpoint onto 8 simulated devices: anonymous memory, time beside torch
    grammar   10,000 random answers of every grammar and tokenizer: how many are malformed
    rsvqa     a nano LLaVA, five minutes: unseen questions about images it has seen
    quantize  int8 and nf4 weights: perplexity, agreement, bytes, memory while reading
    step      micro-batches, cross-entropy of what is supervised, optimisers: bytes and times
    attention  in blocks beside plain, by length: time, bytes; what each remat policy keeps
    roofline  three steps predicted from this machine's floors, beside what they take
    trend     Mann-Kendall, harmonic fits, breaks: pixels a second beside pymannkendall, nrt, pyxccd
    trend_power  simulated breaks: how many are found and when, beside pyxccd
    trend_statistics  false positives, coverage of intervals and forecasts on simulated series
    trend_agreement  breaks on the shipped Landsat pixels that are pyxccd's within 30 days
    trend_coverage  how often intervals of slopes hold, where errors remember
    trend_cube  `rsvlm trend` over 2,000 x 2,000 pixels and 60 dates: rate and memory; also :image
    trend_series  STL beside statsmodels; LandTrendr-like segments; forecasts: pixels a second
    data      cubes: readers and the pipeline beside xarray, xbatcher, a memory map (needs xbatcher)
    talkdata  conversations: real tokens packed, grouped, padded; pictures a second
    predict_cube  `rsvlm predict` over 6,000 x 6,000 pixels: windows a second, and memory by size
    numbers   heads beside numbers as text at matched parameters, paired (long)
    outputs   what a distribution is learned by: coverage, CRPS and RMSE of each output
    reo       our reading of REO-VLM: R2 after each stage, and what it answers
    readout   penalties of the linear readouts on frozen Galileo, chosen on training folds
    biomass   the synthetic world: R2 and bias beside the oracle, and RGB alone (long)
    front_ablations  real cubes: what encoder, readout, averages and members gave (long)
    dense     a map a window: R2 of tree cover by pixel, beside a U-Net and means of windows (long)
    regression  the shipped real cubes: the model beside the baselines (long)

Without names: all but `numbers`, `biomass`, `front_ablations`, `dense` and `regression`; one part
of `readout` and the last three: `regression:fuel`, `dense:unet`. `--short`: a smaller `data`,
`predict_cube`, `trend_cube`, `trend_statistics` and `trend_coverage`.
On a GPU: `python -m experiments.bench.gpu generate`, `train` and `trend`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

NAMES = (
    *("startup", "demo", "radar", "devices", "resume", "save", "input"),
    *("parity", "vs_torch", "decode", "import_memory", "grammar", "quantize", "rsvqa", "talkdata"),
    *("step", "attention", "roofline"),
    *("trend", "trend_power", "trend_statistics", "trend_series", "trend_cube"),
    *("trend_agreement", "trend_coverage"),
    *("data", "predict_cube", "reo", "readout", "outputs"),
    *("numbers", "biomass", "front_ablations", "dense", "regression"),
)


def main() -> int:
    words = [w for w in sys.argv[1:] if w not in ("--json", "--short")]
    if "--short" in sys.argv:
        os.environ["RSVLM_BENCH_SHORT"] = "1"
    unknown = [w for w in words if w.partition(":")[0] not in NAMES]
    if unknown:
        print(f"error: unknown benchmark {unknown[0]!r}; expected {', '.join(NAMES)}")
        return 2
    results = []
    for word in words or NAMES[:-5]:
        name, _, part = word.partition(":")
        module = importlib.import_module(f".{name}", __package__)
        for figure in module.figures(part) if part else module.figures():
            print(figure, flush=True)
            results.append(figure.as_dict())
    if "--json" in sys.argv:
        print(json.dumps({"figures": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
