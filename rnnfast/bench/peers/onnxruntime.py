"""ONNX Runtime: a model of the operators RNN, LSTM or GRU, its weights packed by the session."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPERATORS = {
    "rnn_tanh": ("RNN", {"activations": ["Tanh"]}),
    "rnn_relu": ("RNN", {"activations": ["Relu"]}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {"linear_before_reset": 1}),
}
threads_per_session = 1


def start(threads):
    global threads_per_session
    threads_per_session = threads
    return {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}


def lacks(row):
    if row["passed"] != "inference":
        return "it has no backward pass"
    if row["option"]:
        return "options are compared with PyTorch alone"
    if row["dtype"] != "float32":
        return "its operators do not compute in float64"
    return None


def build(row, arrays, weights):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads_per_session
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model(row, weights).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    # Bound to memory of its own, so that a call copies nothing.
    binding = session.io_binding()
    kept = []
    for each in session.get_inputs():
        if each.name == "x":
            array = arrays["x"]
        else:
            state, layer = each.name.split("_")
            array = np.ascontiguousarray(arrays[state][int(layer)][None])
        kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(array))
        binding.bind_ortvalue_input(each.name, kept[-1])
    for each in session.get_outputs():
        kept.append(onnxruntime.OrtValue.ortvalue_from_shape_and_type(each.shape, row["dtype"]))
        binding.bind_ortvalue_output(each.name, kept[-1])

    def call():
        session.run_with_iobinding(binding)
        return kept

    def results(_):
        found = {
            each.name: array
            for each, array in zip(session.get_outputs(), binding.copy_outputs_to_cpu())
        }
        named = {"y": found.pop("y").reshape(row["T"], row["B"], row["H"])}
        for state in ("h_n", "c_n"):
            parts = [found[f"{state}_{k}"] for k in range(row["L"]) if f"{state}_{k}" in found]
            if parts:
                named[state] = np.concatenate(parts)
        return named

    return {"": (call, results)}


def model(row, weights):
    """Make a node per layer; between two of them the axis of directions goes."""
    operator, attributes = OPERATORS[row["cell"]]
    T, B, I, H, L = (row[letter] for letter in "TBIHL")
    states = ("h", "c") if operator == "LSTM" else ("h",)
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    constants.append(numpy_helper.from_array(np.array([1]), "directions"))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [T, B, I])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [T, 1, B, H])]
    nodes, read = [], "x"
    for k in range(L):
        for state in states:
            for group, name in ((inputs, f"{state}0_{k}"), (outputs, f"{state}_n_{k}")):
                group.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, B, H]))
        write = "y" if k == L - 1 else f"y_{k}"
        nodes.append(
            helper.make_node(
                operator,
                [read, f"{k}/W", f"{k}/R", f"{k}/B", "", *(f"{s}0_{k}" for s in states)],
                [write, *(f"{s}_n_{k}" for s in states)],
                hidden_size=H,
                **attributes,
            )
        )
        if k < L - 1:
            read = f"x_{k + 1}"
            nodes.append(helper.make_node("Squeeze", [write, "directions"], [read]))
    graph = helper.make_graph(nodes, "layers", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made
