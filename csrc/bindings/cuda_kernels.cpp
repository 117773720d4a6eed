// For tests: single kernels of csrc/cuda on arrays, with nothing around them.
#include "../cuda/convert.h"
#include "../cuda/device.h"
#include "../cuda/masks.h"
#include "../cuda/numbers.h"
#include "device_array.h"

namespace rnnfast::cuda {
namespace {

void require(bool good, const char* what) {
  if (!good) throw py::value_error(what);
}

template <class Store>
void masked_rows_impl(const DeviceArray& in, const DeviceArray* add, bool batch_first,
                      MaskedRows<Store> rows, DeviceArray& out, const Stream& stream) {
  require(in.dtype.itemsize() == py::ssize_t(sizeof(Store)),
          "the array is not of this storage type");
  // (rows, n) is a single step of rows.
  const bool steps = in.shape.size() == 3;
  const Index outer = steps ? in.shape[0] : 1, inner = in.shape[in.shape.size() - 2],
              n = in.shape.back();
  rows.T = batch_first ? inner : outer;
  rows.B = batch_first ? outer : inner;
  rows.n = n;
  const auto sequence = [&](void* base) {
    auto* first = static_cast<Store*>(base);
    return batch_first ? Sequence<Store>{first, n, inner * n}
                       : Sequence<Store>{first, inner * n, n};
  };
  const auto constant = [&](void* base) {
    const auto s = sequence(base);
    return Sequence<const Store>{s.base, s.time, s.batch};
  };
  rows.in = constant(in.block.get());
  if (add) rows.add = constant(add->block.get());
  rows.out = sequence(out.block.get());
  masked_rows(rows, stream.get());
}

}  // namespace

std::unique_ptr<DeviceArray> masked_rows_of(const std::string& storage, const DeviceArray& in,
                                            const DeviceArray* add, bool batch_first, double p,
                                            unsigned purpose, uint64_t seed, uint32_t layer,
                                            uint32_t direction, uint32_t first_step, uint32_t step,
                                            const DeviceArray* row_id) {
  require(in.shape.size() == 2 || in.shape.size() == 3, "in is not (T, B, n) or (B, n)");
  require(!add || (add->shape == in.shape && add->dtype.equal(in.dtype)), "add is not as in");
  const py::ssize_t B = in.shape[batch_first ? 0 : in.shape.size() - 2];
  require(!row_id || (row_id->size() == B && row_id->dtype.itemsize() == 4),
          "row_id is not (B,) uint32");
  const int device = in.block.device();
  const Stream stream(device);
  const OnDevice here(device);
  auto out = std::make_unique<DeviceArray>(in.dtype, in.shape, stream);
  const auto run = [&](auto rows) {
    rows.purpose = Purpose(purpose);
    rows.p = p;
    rows.random = {seed,      layer,
                   direction, first_step,
                   step,      row_id ? static_cast<const uint32_t*>(row_id->block.get()) : nullptr};
    masked_rows_impl(in, add, batch_first, rows, *out, stream);
  };
  if (storage == "f32") run(MaskedRows<float>{});
  else if (storage == "f64") run(MaskedRows<double>{});
  else if (storage == "bf16") run(MaskedRows<bf16>{});
  else if (storage == "f16") run(MaskedRows<f16>{});
  else require(false, "no such storage type");
  stream.synchronize();
  return out;
}

std::unique_ptr<DeviceArray> convert_of(const std::string& from, const std::string& to,
                                        const DeviceArray& array) {
  const int device = array.block.device();
  const Stream stream(device);
  const OnDevice here(device);
  std::unique_ptr<DeviceArray> out;
  const auto run = [&](auto source, auto target) {
    using From = decltype(source);
    using To = decltype(target);
    require(array.dtype.itemsize() == py::ssize_t(sizeof(From)),
            "the array is not of this storage type");
    const auto dtype = sizeof(To) == 4 ? py::dtype::of<float>() : py::dtype::of<uint16_t>();
    out = std::make_unique<DeviceArray>(dtype, array.shape, stream);
    convert(static_cast<const From*>(array.block.get()), static_cast<To*>(out->block.get()),
            array.size(), stream.get());
  };
  if (from == "f32" && to == "bf16") run(float{}, bf16{});
  else if (from == "f32" && to == "f16") run(float{}, f16{});
  else if (from == "bf16" && to == "f32") run(bf16{}, float{});
  else if (from == "f16" && to == "f32") run(f16{}, float{});
  else require(false, "no such pair of storage types");
  stream.synchronize();
  return out;
}

}  // namespace rnnfast::cuda
