import numpy as np

import rnnfast
from rnnfast.training import Adam, Linear, squared_error

x = np.random.default_rng(0).standard_normal((50, 16, 1)).astype(np.float32)  # (T, B, I)
target = np.cumsum(x, axis=0)  # the layer is to learn to add up
lstm, linear = rnnfast.LSTM(1, 32, seed=0), Linear(32, 1, seed=0)
adam = Adam({**lstm.parameters, **linear.parameters}, lr=3e-3)
for step in range(201):
    y, _, tape = lstm.forward(x)
    output, linear_tape = linear.forward(y)
    loss, doutput = squared_error(output, target)
    gradients = linear.backward(linear_tape, doutput)
    dlstm = lstm.backward(tape, gradients.x, need_dx=False)
    adam.step({**dlstm.parameters, **gradients.parameters})
    if step % 40 == 0:
        print(f"step {step:3}   loss {loss:.3f}")
