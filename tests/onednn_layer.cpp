// One recurrent layer of oneDNN (2.x), for tests/test_weights_frameworks.py:
//     onednn_layer rnn_tanh|rnn_relu|lstm|gru T B I H D < arrays > y
// Floats on standard input: x (T, B, I), h0 (1, D, B, H), for lstm c0 alike, weights_layer, weights_iter
// (ldigo), bias (ldgo); on standard output y (T, B, D*H).
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_map>
#include <vector>

#include "dnnl.hpp"

using namespace dnnl;
using tag = memory::format_tag;

int main(int, char** argv) {
  const std::string cell = argv[1];
  const memory::dim T = atoi(argv[2]), B = atoi(argv[3]), I = atoi(argv[4]), H = atoi(argv[5]),
                    D = atoi(argv[6]);
  const bool lstm = cell == "lstm", gru = cell == "gru";
  const memory::dim G = lstm ? 4 : gru ? 3 : 1;
  engine cpu(engine::kind::cpu, 0);
  stream queue(cpu);
  std::vector<std::vector<float>> kept;

  const auto make = [&](memory::dims dims, tag format, bool read) {
    const memory::desc desc(dims, memory::data_type::f32, format);
    kept.emplace_back(desc.get_size() / sizeof(float));
    if (read &&
        fread(kept.back().data(), sizeof(float), kept.back().size(), stdin) != kept.back().size()) {
      std::exit(2);
    }
    return memory(desc, cpu, kept.back().data());
  };
  kept.reserve(16);
  memory x = make({T, B, I}, tag::tnc, true);
  memory h0 = make({1, D, B, H}, tag::ldnc, true), c0, cn;
  if (lstm) c0 = make({1, D, B, H}, tag::ldnc, true), cn = make({1, D, B, H}, tag::ldnc, false);
  memory W = make({1, D, I, G, H}, tag::ldigo, true), R = make({1, D, H, G, H}, tag::ldigo, true);
  memory bias = make({1, D, gru ? G + 1 : G, H}, tag::ldgo, true);
  memory y = make({T, B, D * H}, tag::tnc, false), hn = make({1, D, B, H}, tag::ldnc, false);

  const auto kind = prop_kind::forward_inference;
  const auto way =
      D == 2 ? rnn_direction::bidirectional_concat : rnn_direction::unidirectional_left2right;
  std::unordered_map<int, memory> arguments = {
      {DNNL_ARG_SRC_LAYER, x},    {DNNL_ARG_SRC_ITER, h0}, {DNNL_ARG_WEIGHTS_LAYER, W},
      {DNNL_ARG_WEIGHTS_ITER, R}, {DNNL_ARG_BIAS, bias},   {DNNL_ARG_DST_LAYER, y},
      {DNNL_ARG_DST_ITER, hn},
  };
  primitive layer;
  if (lstm) {
    arguments.insert({DNNL_ARG_SRC_ITER_C, c0});
    arguments.insert({DNNL_ARG_DST_ITER_C, cn});
    lstm_forward::desc desc(kind, way, x.get_desc(), h0.get_desc(), c0.get_desc(), W.get_desc(),
                            R.get_desc(), bias.get_desc(), y.get_desc(), hn.get_desc(),
                            cn.get_desc());
    layer = lstm_forward(lstm_forward::primitive_desc(desc, cpu));
  } else if (gru) {
    lbr_gru_forward::desc desc(kind, way, x.get_desc(), h0.get_desc(), W.get_desc(), R.get_desc(),
                               bias.get_desc(), y.get_desc(), hn.get_desc());
    layer = lbr_gru_forward(lbr_gru_forward::primitive_desc(desc, cpu));
  } else {
    const auto phi = cell == "rnn_relu" ? algorithm::eltwise_relu : algorithm::eltwise_tanh;
    vanilla_rnn_forward::desc desc(kind, phi, way, x.get_desc(), h0.get_desc(), W.get_desc(),
                                   R.get_desc(), bias.get_desc(), y.get_desc(), hn.get_desc());
    layer = vanilla_rnn_forward(vanilla_rnn_forward::primitive_desc(desc, cpu));
  }
  layer.execute(queue, arguments);
  queue.wait();
  const float* out = static_cast<const float*>(y.get_data_handle());
  return fwrite(out, sizeof(float), T * B * D * H, stdout) == size_t(T * B * D * H) ? 0 : 3;
}
