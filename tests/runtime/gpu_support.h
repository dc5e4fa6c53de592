// For the tests on a real GPU: the device, or the reason for a skip; operands with poisoned
// padding; and a reference on the host in double precision.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "runtime/c_tile.h"
#include "runtime/device_memory.h"
#include "runtime/handles.h"
#include "tests/runtime/fp8.h"
#include "tests/support/catch.h"

namespace kiln::test {

// The engine of Gpu::get(), or null and why there is none. gpu_engine.cc makes one on a GPU,
// tests/sim/sim_engine.cc one on the simulator: a program has one of the two.
kiln_engine* open_test_engine(std::string& reason);

// An engine on the first Hopper GPU, made with the defaults (and so with the environment's cache
// and NVRTC), and a stream. One per process, but for tests that bring their own engine.
class Gpu {
 public:
  // Null without a usable GPU; skip_reason() then says why. With KILN_REQUIRE_GPU=1 that is a
  // failure.
  static Gpu* get() { return found().gpu.get(); }
  static const std::string& skip_reason() { return found().reason; }
  // Works with an engine of the caller's, which must outlive it, and a stream of its own.
  explicit Gpu(kiln_engine* engine);

  kiln_engine* handle() const { return engine_; }
  runtime::Engine& engine() const { return runtime::engine_of(engine_); }
  const runtime::Device& device() const { return engine().device(); }
  CUstream stream() const { return stream_->get(); }
  void synchronize() const { stream_->synchronize(); }

 private:
  struct Found {
    std::unique_ptr<Gpu> gpu;
    std::string reason;
  };
  static const Found& found();
  kiln_engine* engine_;
  std::unique_ptr<runtime::Stream> stream_;
};

// Begins a test case that needs a GPU; `gpu` is then a Gpu&.
#define KILN_REQUIRE_GPU_OR_SKIP(gpu)                                       \
  if (::kiln::test::Gpu::get() == nullptr) {                                \
    const char* const required = std::getenv("KILN_REQUIRE_GPU");           \
    if (required != nullptr && std::string(required) == "1") {              \
      FAIL("KILN_REQUIRE_GPU=1, but " << ::kiln::test::Gpu::skip_reason()); \
    }                                                                       \
    KILN_SKIP(::kiln::test::Gpu::skip_reason());                            \
  }                                                                         \
  ::kiln::test::Gpu& gpu = *::kiln::test::Gpu::get()

#define KILN_CHECK_OK(call)       \
  do {                            \
    const kiln_status got = call; \
    INFO(kiln_last_error());      \
    REQUIRE(got == KILN_OK);      \
  } while (false)

// A driver function that the library itself does not call.
template <class Function>
Function* driver_call(const Gpu& gpu, const char* name) {
  void* const symbol = gpu.device().driver().symbol(name);
  REQUIRE(symbol != nullptr);
  return reinterpret_cast<Function*>(symbol);
}

// The C API's spelling of a problem.
kiln_problem c_problem(const jit::Problem& problem);

// The values of all 256 codes.
const std::array<double, 256>& decoded(jit::Fp8Type type);

// Bytes of padding around and inside every operand: NaN in FP8, BF16 and FP32 alike.
inline constexpr std::uint8_t kPoison = 0xff;
inline constexpr std::size_t kGuardBytes = 4096;

// A strided matrix with guards before and behind it, all poison but the elements themselves.
template <class T>
class PaddedMatrix {
 public:
  PaddedMatrix() : PaddedMatrix(0, 0, 0) {}
  PaddedMatrix(std::int64_t rows, std::int64_t cols, std::int64_t stride)
      : rows_(rows),
        cols_(cols),
        stride_(stride),
        bytes_(2 * kGuardBytes + static_cast<std::size_t>(rows * stride) * sizeof(T),
               std::byte{kPoison}) {}

  T& at(std::int64_t row, std::int64_t col) {
    return reinterpret_cast<T*>(bytes_.data() + kGuardBytes)[row * stride_ + col];
  }
  const T& at(std::int64_t row, std::int64_t col) const {
    return const_cast<PaddedMatrix*>(this)->at(row, col);
  }
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  std::int64_t stride() const { return stride_; }

  void to_device(const runtime::Device& device) {
    if (buffer_.size() == 0) buffer_ = runtime::DeviceBuffer(device, bytes_.size());
    buffer_.upload(bytes_);
  }
  void from_device() { buffer_.download(bytes_); }
  T* device_data() const { return buffer_.data<T>(kGuardBytes); }

  // Whether everything but the elements still is poison.
  bool padding_is_intact() const {
    std::size_t bad = 0;
    const auto count = [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) bad += bytes_[i] != std::byte{kPoison};
    };
    count(0, kGuardBytes);
    for (std::int64_t row = 0; row < rows_; ++row) {
      const std::size_t begin = kGuardBytes + static_cast<std::size_t>(row * stride_) * sizeof(T);
      count(begin + static_cast<std::size_t>(cols_) * sizeof(T),
            begin + static_cast<std::size_t>(stride_) * sizeof(T));
    }
    count(bytes_.size() - kGuardBytes, bytes_.size());
    return bad == 0;
  }
  // Puts poison in the place of an element. What is left when every element that may be written
  // has been taken out is what nobody may have touched.
  void poison(std::int64_t row, std::int64_t col) {
    std::fill_n(reinterpret_cast<std::byte*>(&at(row, col)), sizeof(T), std::byte{kPoison});
  }
  void poison_all() { std::fill(bytes_.begin(), bytes_.end(), std::byte{kPoison}); }
  bool is_all_poison() const {
    return std::all_of(bytes_.begin(), bytes_.end(),
                       [](std::byte byte) { return byte == std::byte{kPoison}; });
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::int64_t rows_, cols_, stride_;
  std::vector<std::byte> bytes_;
  runtime::DeviceBuffer buffer_;
};

struct GemmCase {
  jit::Problem problem;
  std::int64_t m = 0;
  std::optional<jit::Tile> tile = std::nullopt;
  std::uint64_t seed = 1;
};

// One GEMM with all its operands on host and device. Fill the host side, then upload().
class GemmData {
 public:
  GemmData(Gpu& gpu, const GemmCase& test);

  // Values and scales for which every partial sum is exact, in the tensor core as in FP32.
  void fill_exact();
  // Any finite FP8 values of moderate size, any positive scales.
  void fill_random();
  void upload();

  kiln_operands operands() const;
  // Enqueues on the GPU's stream; `plan` is made at the first call.
  void launch(std::uint32_t flags = 0, std::int32_t num_sms = 0);
  kiln_plan* plan();
  // The next result: waits, downloads D and returns whether nothing around it was written.
  bool download();

  // Elements of D that differ from the exact sum, rounded once (0 and -0 are equal). For
  // fill_exact().
  std::int64_t mismatches() const;
  // 1 - 2<x,y>/(<x,x>+<y,y>), and the number of elements outside their bound. For fill_random().
  double difference() const;
  std::int64_t elements_out_of_bounds() const;

  double reference(std::int64_t row, std::int64_t col, double* magnitude = nullptr) const;
  double result(std::int64_t row, std::int64_t col) const;

  PaddedMatrix<std::uint8_t> a, b;
  PaddedMatrix<float> sfa, sfb;
  PaddedMatrix<std::uint16_t> d16;  // one of the two is empty
  PaddedMatrix<float> d32;
  PaddedMatrix<float> c;  // D before the launch

  ~GemmData();
  GemmData(const GemmData&) = delete;
  GemmData& operator=(const GemmData&) = delete;

 private:
  bool is_bf16() const { return test_.problem.out == jit::OutputType::kBf16; }
  float scale_a(std::int64_t row, std::int64_t block) const;

  Gpu& gpu_;
  GemmCase test_;
  std::mt19937_64 random_;
  kiln_plan* plan_ = nullptr;
};

}  // namespace kiln::test
