"""How conditions enter diffusion transformers: the package behind the AdaLN course.

The model, in reading order:

    norms         layer_norm, rms_norm, modulate, ToModulation, the gated residual
    layers        attention, MLP, linears with a stated start
    embed         time, labels or captions, patches, positions
    conditioning  five blocks with one signature: in-context, cross-attention, adaLN, adaLN-Zero, both
    dit           TinyDiT
    flow          flow matching: path, target, loss
    samplers      Euler and Heun as generators, guidance

and what stands around it, one folder a job:

    blocks        blocks of published models, one file an architecture; zoo holds the table of facts
    data          digits and downloads, emoji, drawn scenes, a reader that names what a scene shows
    training      a generator of steps, optimisers, recipes, checkpoints, several processes
    experiments   what the notebooks compare: residual schemes, conditioning mechanisms, the U-Net, the classifier
    analysis      probes, interventions, gradient onset, block diagrams, the x-ray
    display       plots and widgets that several notebooks share
    exercises     one file a notebook, the engine, the collection of broken models
    utils         files, checks, environment, assets, equations that are run

Shape glossary, used everywhere:
    B batch   T image tokens   S condition tokens   D width   C width of the condition   H heads   P patch   K classes
    x residual stream (B, T, D)   h branch input (B, T, D)   c condition (B, C)   ctx condition tokens (B, S, D)
    t time in [0, 1] (B,): t = 0 is data, t = 1 is noise   y labels (B,) or tokens (B, S)   v velocity, like the image
"""

__version__ = "0.1.0"
