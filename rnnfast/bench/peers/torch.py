"""PyTorch: `torch.nn` layers, cells for single steps, and the loops that options take."""

import torch
from torch import nn
from torch.nn.functional import linear
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LAYERS = {
    "rnn_tanh": (nn.RNN, nn.RNNCell, {}),
    "rnn_relu": (nn.RNN, nn.RNNCell, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, nn.LSTMCell, {}),
    "gru": (nn.GRU, nn.GRUCell, {}),
}
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def start(threads):
    torch.set_num_threads(threads)
    return {"torch": torch.__version__}


def lacks(row):
    return None


def build(row, arrays, weights):
    dtype = getattr(torch, row["dtype"])
    kind, cell_kind, options = LAYERS[row["cell"]]
    given = {name: torch.from_numpy(array) for name, array in weights.items()}
    data = {name: torch.from_numpy(array) for name, array in arrays.items()}
    states = tuple(data[s + "0"] for s in ("h", "c") if s + "0" in data)
    layer = kind(row["I"], row["H"], row["L"], dtype=dtype, **options)
    layer.load_state_dict(given)
    ways = {"": (layer, layer_call(row, layer, data), None)}
    if row["option"] == "lengths":
        ways = {"packed": (layer, packed_call(layer, data), None)}
    elif row["option"] or (row["T"] == 1 and row["passed"] == "inference"):
        cell = cell_kind(row["I"], row["H"], dtype=dtype, **options)
        cell.load_state_dict({name: given[name + "_l0"] for name in PARAMETERS})
        name = "loop" if row["option"] else "cell"
        ways = {} if row["option"] else ways
        ways[name] = (cell, loop(row, cell, data), "_l0")
    run = training if row["passed"] == "forward+backward" else inference
    return {
        name: run(module, call, data["x"], states, data, suffix or "")
        for name, (module, call, suffix) in ways.items()
    }


def layer_call(row, layer, data):
    """One call over the sequence; returns y, the final states, and nothing besides."""

    def call(x, states):
        y, last = layer(x, states if len(states) > 1 else states[0])
        return y, last if len(states) > 1 else (last,), {}

    return call


def packed_call(layer, data):
    """Rows of different lengths, packed and padded again as its users do."""
    lengths = data["lengths"]

    def call(x, states):
        T = x.shape[0]
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, last = layer(packed, states if len(states) > 1 else states[0])
        y, _ = pad_packed_sequence(y, total_length=T)
        return y, last if len(states) > 1 else (last,), {}

    return call


def loop(row, cell, data):
    """Run a cell step by step, which is what a layer without the option comes down to."""
    keep = (1 - data["reset"].to(data["x"].dtype))[:, :, None] if "reset" in data else None
    mask = data.get("mask")
    step = cell
    if mask is not None:
        step = masked_gru(cell, mask) if row["cell"] == "gru" else masked(cell, mask)
    collect = row["option"] == "states"

    def call(x, states):
        states = tuple(s[0] for s in states)
        ys, cs = [], []
        for t, x_t in enumerate(x):
            if keep is not None:
                states = tuple(s * keep[t] for s in states)
            states = step(x_t, states if len(states) > 1 else states[0])
            states = states if isinstance(states, tuple) else (states,)
            ys.append(states[0])
            if collect:
                cs.append(states[1])
        besides = {"c": torch.stack(cs)[None]} if collect else {}
        return torch.stack(ys), tuple(s[None] for s in states), besides

    return call


def masked(cell, mask):
    """Recurrent dropout where h is nothing but the operand of the product."""

    def step(x, states):
        if isinstance(states, tuple):
            return cell(x, (states[0] * mask, states[1]))
        return cell(x, states * mask)

    return step


def masked_gru(cell, mask):
    """Recurrent dropout where h is in z * h as well: the equations, for GRUCell has one h."""

    def step(x, h):
        xr, xz, xn = linear(x, cell.weight_ih, cell.bias_ih).chunk(3, 1)
        hr, hz, hn = linear(h * mask, cell.weight_hh, cell.bias_hh).chunk(3, 1)
        r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        n = torch.tanh(xn + r * hn)
        return n + z * (h - n)

    return step


def inference(module, call, x, states, data, suffix):
    def run():
        with torch.inference_mode():
            return call(x, states)

    def results(found):
        return named(*found)

    return run, results


def training(module, call, x, states, data, suffix):
    x = x.clone().requires_grad_()
    states = tuple(s.clone().requires_grad_() for s in states)
    dy, dc = data["dy"], data.get("dc")

    def run():
        module.zero_grad()
        x.grad = None
        for s in states:
            s.grad = None
        y, last, besides = call(x, states)
        if dc is None:
            y.backward(dy)
        else:
            torch.autograd.backward([y, besides["c"]], [dy, dc])
        return y, last, besides

    def results(found):
        y, last, besides = found
        gradients = {"dx": x.grad.numpy()}
        gradients.update(("d" + s + "0", v.grad.numpy()) for s, v in zip("hc", states))
        for name, parameter in module.named_parameters():
            gradients["d:" + name + suffix] = parameter.grad.numpy()
        return {**named(y, last, besides), **gradients}

    return run, results


def named(y, last, besides):
    arrays = {"y": y, **besides, **{s + "_n": v for s, v in zip("hc", last)}}
    return {name: tensor.detach().numpy() for name, tensor in arrays.items()}
