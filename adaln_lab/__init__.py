"""How conditions enter diffusion transformers: the package behind the AdaLN course.

Data walks one way, and so do imports:

    scenes, datasets -> flow -> [norms -> residual, layers -> conditioning -> dit <- embed]
             -> train, checkpoint -> samplers, classifier, probes -> plots -> widgets, exercises -> notebooks

    norms         layer_norm, rms_norm, modulate, ToModulation
    residual      the gated residual
    layers        attention, MLP, linears with a stated start
    embed         time, labels or words, patches, positions
    conditioning  four blocks with one signature: in-context, cross-attention, adaLN, adaLN-Zero
    dit           TinyDiT
    flow          flow matching: path, target, loss
    samplers      Euler and Heun as generators, guidance
    scenes        pictures whose every factor is known; scene_reader reads the factors back
    datasets      real digits and scenes offline; MNIST, FashionMNIST, CIFAR-10 by download
    train         training as a generator of steps; distributed: several processes, one run
    checkpoint    keeps what training made, whole or not at all (files)
    session       one start of a run; failures says what stopped it
    interventions other plans for the same weights
    classifier    how good are the samples?
    schemes       a dozen ways for a branch to join the stream; sweep compares them over depth and learning rate
    probes        sizes, gradients and shares of the stream; wakeup: who hears the loss, and when
    xray          whether and how any module is modulated, from watching one pass
    dataflow      what a block does, read from the block itself; diagrams draws it
    proof         equations that are run

Shape glossary, used everywhere:
    B batch   T image tokens   S condition tokens   D width   C width of the condition   H heads   P patch   K classes
    x residual stream (B, T, D)   h branch input (B, T, D)   c condition (B, C)   ctx condition tokens (B, S, D)
    t time in [0, 1] (B,): t = 0 is data, t = 1 is noise   y labels (B,) or words (B, S)   v velocity, like the image
"""

__version__ = "0.1.0"
