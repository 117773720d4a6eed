"""OpenVINO: a compiled model of its sequence operators, batch first as these are."""

import numpy as np
import openvino
from openvino import opset14 as ops

# Its gate order is f i c o, that of ONNX i o f c; for the GRU both have z r h.
ORDERS = {"lstm": (2, 0, 3, 1), "gru": (0, 1, 2), "rnn_tanh": (0,), "rnn_relu": (0,)}
core = openvino.Core()
threads_per_request = 1


def start(threads):
    global threads_per_request
    threads_per_request = threads
    return {"openvino": openvino.__version__}


def lacks(row):
    if row["passed"] != "inference":
        return "it has no backward pass"
    if row["option"]:
        return "options are compared with PyTorch alone"
    if row["dtype"] != "float32":
        return "it computes float64 in float32"
    return None


def build(row, arrays, weights):
    T, B, I, H, L = (row[letter] for letter in "TBIHL")
    cell, G = row["cell"], len(ORDERS[row["cell"]])
    states = ("h", "c") if cell == "lstm" else ("h",)

    def blocks(array):
        return array.reshape(1, G, H, -1)[:, list(ORDERS[cell])]

    x = ops.parameter([B, T, I], np.float32, name="x")
    inputs, outputs, values = [x], [], {0: arrays["x"].transpose(1, 0, 2)}
    lengths = ops.constant(np.full(B, T, np.int32))
    read = x
    for k in range(L):
        initial = []
        for state in states:
            initial.append(ops.parameter([B, 1, H], np.float32))
            values[len(inputs)] = arrays[state + "0"][k][:, None]
            inputs.append(initial[-1])
        W = blocks(weights[f"{k}/W"]).reshape(1, G * H, -1)
        R = blocks(weights[f"{k}/R"]).reshape(1, G * H, H)
        both = weights[f"{k}/B"].reshape(1, 2 * G * H)
        bW, bR = (blocks(part)[:, :, :, 0] for part in (both[:, : G * H], both[:, G * H :]))
        bias = bW + bR
        if cell == "gru":  # n keeps its two biases apart
            bias = np.concatenate([bias[:, :2], bW[:, 2:], bR[:, 2:]], axis=1)
        parameters = [ops.constant(np.ascontiguousarray(a)) for a in (W, R, bias.reshape(1, -1))]
        if cell == "lstm":
            node = ops.lstm_sequence(read, *initial, lengths, *parameters, H, "forward")
        elif cell == "gru":
            node = ops.gru_sequence(
                read, *initial, lengths, *parameters, H, "forward", linear_before_reset=True
            )
        else:
            node = ops.rnn_sequence(
                read, *initial, lengths, *parameters, H, "forward", [cell.removeprefix("rnn_")]
            )
        outputs.extend(node.output(1 + j) for j in range(len(states)))
        read = ops.squeeze(node.output(0), np.array([1])) if k < L - 1 else node.output(0)
    # Results in their order: the last layer's y, then the final states of each layer.
    model = openvino.Model([ops.result(o) for o in (read, *outputs)], inputs, "layers")
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads_per_request,
            "ENABLE_CPU_PINNING": False,  # this process is pinned already
        },
    )
    request = compiled.create_infer_request()
    for index, value in values.items():
        tensor = openvino.Tensor(np.ascontiguousarray(value))
        request.set_input_tensor(index, tensor)

    def results(_):
        found = [request.get_output_tensor(i).data.copy() for i in range(1 + L * len(states))]
        named = {"y": found[0].reshape(B, T, H).transpose(1, 0, 2)}
        for j, state in enumerate(states):
            named[state + "_n"] = np.stack([found[1 + k * len(states) + j][:, 0] for k in range(L)])
        return named

    return {"": (request.infer, results)}
