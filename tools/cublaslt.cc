#include "tools/cublaslt.h"

#include <fmt/format.h>

#include <array>
#include <utility>
#include <vector>

#include "tools/dynamic_library.h"

namespace kiln::tools {
namespace {

// ---- The declarations of cublasLt.h that are needed: values and layouts of its stable ABI. ----

using LtStatus = int;
constexpr LtStatus kLtSuccess = 0;
constexpr LtStatus kLtNotSupported = 15;

using LtHandle = struct LtHandleTag*;
using LtMatmulDesc = struct LtMatmulDescTag*;
using LtMatrixLayout = struct LtMatrixLayoutTag*;
using LtPreference = struct LtPreferenceTag*;

struct LtAlgorithm {
  std::uint64_t data[8];
};
struct LtHeuristic {
  LtAlgorithm algorithm;
  std::size_t workspace_bytes;
  LtStatus state;
  float waves;
  int reserved[4];
};

constexpr int kComputeF32 = 68;  // CUBLAS_COMPUTE_32F
enum LtType : int { kTypeF32 = 0, kTypeBf16 = 14, kTypeE4m3 = 28, kTypeE5m2 = 29 };
constexpr std::int32_t kTransposed = 1;  // CUBLAS_OP_T

enum LtDescAttribute : int {  // CUBLASLT_MATMUL_DESC_*
  kTransA = 3,
  kAScalePointer = 17,
  kBScalePointer = 18,
  kFastAccum = 25,
  kAScaleMode = 31,
  kBScaleMode = 32,
};
enum LtScaleMode : std::int32_t {  // CUBLASLT_MATMUL_MATRIX_SCALE_*
  kScalar = 0,
  kVec128 = 4,
  kBlock128x128 = 5,
};
constexpr int kMaxWorkspace = 1;  // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
constexpr std::size_t kFirstWithBlocks = 120900;
constexpr std::size_t kWorkspaceBytes = std::size_t{64} << 20;

struct LtFunctions {
  LtStatus (*create)(LtHandle*) = nullptr;
  LtStatus (*destroy)(LtHandle) = nullptr;
  std::size_t (*version)() = nullptr;
  const char* (*status_name)(LtStatus) = nullptr;
  LtStatus (*desc_create)(LtMatmulDesc*, int, int) = nullptr;
  LtStatus (*desc_destroy)(LtMatmulDesc) = nullptr;
  LtStatus (*desc_set)(LtMatmulDesc, int, const void*, std::size_t) = nullptr;
  LtStatus (*layout_create)(LtMatrixLayout*, int, std::uint64_t, std::uint64_t,
                            std::int64_t) = nullptr;
  LtStatus (*layout_destroy)(LtMatrixLayout) = nullptr;
  LtStatus (*preference_create)(LtPreference*) = nullptr;
  LtStatus (*preference_destroy)(LtPreference) = nullptr;
  LtStatus (*preference_set)(LtPreference, int, const void*, std::size_t) = nullptr;
  LtStatus (*heuristic)(LtHandle, LtMatmulDesc, LtMatrixLayout, LtMatrixLayout, LtMatrixLayout,
                        LtMatrixLayout, LtPreference, int, LtHeuristic*, int*) = nullptr;
  LtStatus (*matmul)(LtHandle, LtMatmulDesc, const void*, const void*, LtMatrixLayout, const void*,
                     LtMatrixLayout, const void*, const void*, LtMatrixLayout, void*,
                     LtMatrixLayout, const LtAlgorithm*, void*, std::size_t, CUstream) = nullptr;
};

bool bind_all(const DynamicLibrary& library, LtFunctions& f) {
  return library.bind(f.create, "cublasLtCreate") && library.bind(f.destroy, "cublasLtDestroy") &&
         library.bind(f.version, "cublasLtGetVersion") &&
         library.bind(f.status_name, "cublasLtGetStatusName") &&
         library.bind(f.desc_create, "cublasLtMatmulDescCreate") &&
         library.bind(f.desc_destroy, "cublasLtMatmulDescDestroy") &&
         library.bind(f.desc_set, "cublasLtMatmulDescSetAttribute") &&
         library.bind(f.layout_create, "cublasLtMatrixLayoutCreate") &&
         library.bind(f.layout_destroy, "cublasLtMatrixLayoutDestroy") &&
         library.bind(f.preference_create, "cublasLtMatmulPreferenceCreate") &&
         library.bind(f.preference_destroy, "cublasLtMatmulPreferenceDestroy") &&
         library.bind(f.preference_set, "cublasLtMatmulPreferenceSetAttribute") &&
         library.bind(f.heuristic, "cublasLtMatmulAlgoGetHeuristic") &&
         library.bind(f.matmul, "cublasLtMatmul");
}

// A call of the library that did not succeed, as a reason.
struct LtFailure {
  std::string reason;
};

int type_of(jit::Fp8Type type) { return type == jit::Fp8Type::kE4m3 ? kTypeE4m3 : kTypeE5m2; }
int type_of(jit::OutputType type) { return type == jit::OutputType::kBf16 ? kTypeBf16 : kTypeF32; }

// ---- One product, ready to launch. ----

// cuBLASLt sees columns where Kiln sees rows: its D [N,M] = its A [K,N], transposed, x its B [K,M],
// with Kiln's B as its A and Kiln's A as its B.
class LtProduct {
 public:
  LtProduct(const runtime::Device& device, const LtFunctions& f, LtHandle handle)
      : device_(device), f_(f), handle_(handle) {}
  LtProduct(const LtProduct&) = delete;
  LtProduct& operator=(const LtProduct&) = delete;
  ~LtProduct() {
    for (const LtMatrixLayout layout : {a_, b_, d_})
      if (layout != nullptr) f_.layout_destroy(layout);
    if (desc_ != nullptr) f_.desc_destroy(desc_);
  }

  // Throws LtFailure.
  void describe(const Workload& w, const kiln_operands& operands, LtScaling scaling);
  void choose(const Workload& w);
  void launch(CUstream stream) const;

 private:
  void require(LtStatus status, const char* call) const {
    if (status == kLtSuccess) return;
    throw LtFailure{fmt::format("{}: {}", call, f_.status_name(status))};
  }
  template <typename T>
  void set(LtDescAttribute attribute, T value) {
    require(f_.desc_set(desc_, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
  }
  void layout(LtMatrixLayout& out, int type, std::int64_t rows, std::int64_t cols,
              std::int64_t ld) const {
    require(f_.layout_create(&out, type, static_cast<std::uint64_t>(rows),
                             static_cast<std::uint64_t>(cols), ld),
            "cublasLtMatrixLayoutCreate");
  }
  void set_scales(const Workload& w, LtScaling scaling);

  const runtime::Device& device_;
  const LtFunctions& f_;
  LtHandle handle_;
  LtMatmulDesc desc_ = nullptr;
  LtMatrixLayout a_ = nullptr, b_ = nullptr, d_ = nullptr;
  LtAlgorithm algorithm_{};
  runtime::DeviceBuffer scale_a_, scale_b_, workspace_;
  const void* a_data_ = nullptr;
  const void* b_data_ = nullptr;
  void* d_data_ = nullptr;
  float beta_ = 0;
};

// Floats that a scale matrix takes. 1x128: one per row and block of K, rows contiguous. 128x128: K
// contiguous, in strides of a multiple of 4. All are 1, so their order does not matter, only that
// there are enough of them.
std::int64_t scale_count(LtScaleMode mode, std::int64_t rows, std::int64_t k) {
  const std::int64_t blocks = jit::scale_blocks(k);
  switch (mode) {
    case kVec128:
      return rows * blocks;
    case kBlock128x128:
      return jit::ceil_div(blocks, 4) * 4 * jit::scale_blocks(rows);
    default:
      return 1;
  }
}

void LtProduct::set_scales(const Workload& w, LtScaling scaling) {
  LtScaleMode mode_a = kScalar, mode_b = kScalar;
  if (scaling == LtScaling::kBlockWise) {
    mode_a = w.problem.scaling == jit::Scaling::k1d2d ? kBlock128x128 : kVec128;
    mode_b = kVec128;
    set(kAScaleMode, static_cast<std::int32_t>(mode_a));
    set(kBScaleMode, static_cast<std::int32_t>(mode_b));
  } else {
    set(kFastAccum, std::int8_t{1});  // block-wise scaling has its own accumulation instead
  }
  const auto ones = [&](LtScaleMode mode, std::int64_t rows) {
    const auto count = static_cast<std::size_t>(scale_count(mode, rows, w.k));
    return runtime::DeviceBuffer::of(device_, std::vector<float>(count, 1.0f));
  };
  scale_a_ = ones(mode_a, w.problem.n);
  scale_b_ = ones(mode_b, w.m);
  set(kAScalePointer, static_cast<const void*>(scale_a_.data()));
  set(kBScalePointer, static_cast<const void*>(scale_b_.data()));
}

void LtProduct::describe(const Workload& w, const kiln_operands& operands, LtScaling scaling) {
  const jit::Problem& p = w.problem;
  require(f_.desc_create(&desc_, kComputeF32, kTypeF32), "cublasLtMatmulDescCreate");
  set(kTransA, kTransposed);
  set_scales(w, scaling);
  layout(a_, type_of(p.b), w.k, p.n, operands.ldb);
  layout(b_, type_of(p.a), w.k, w.m, operands.lda);
  layout(d_, type_of(p.out), p.n, w.m, operands.ldd);
  a_data_ = operands.b;
  b_data_ = operands.a;
  d_data_ = operands.d;
  beta_ = p.accumulate ? 1 : 0;
}

void LtProduct::choose(const Workload& w) {
  LtPreference preference = nullptr;
  require(f_.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  LtStatus status =
      f_.preference_set(preference, kMaxWorkspace, &kWorkspaceBytes, sizeof(kWorkspaceBytes));
  LtHeuristic best{};
  int found = 0;
  if (status == kLtSuccess)
    status = f_.heuristic(handle_, desc_, a_, b_, d_, d_, preference, 1, &best, &found);
  f_.preference_destroy(preference);
  if (status == kLtNotSupported || (status == kLtSuccess && found == 0)) {
    throw LtFailure{fmt::format("cuBLASLt has no kernel for m={} n={} k={} {} x {} -> {} {}", w.m,
                                w.problem.n, w.k, jit::name(w.problem.a), jit::name(w.problem.b),
                                jit::name(w.problem.out), jit::name(w.problem.scaling))};
  }
  require(status, "cublasLtMatmulAlgoGetHeuristic");
  require(best.state, "cublasLtMatmulAlgoGetHeuristic");
  algorithm_ = best.algorithm;
  if (best.workspace_bytes > 0) workspace_ = runtime::DeviceBuffer(device_, best.workspace_bytes);
}

void LtProduct::launch(CUstream stream) const {
  const runtime::ContextScope scope(device_.driver(), device_.context());
  const float alpha = 1;
  const LtStatus status =
      f_.matmul(handle_, desc_, &alpha, a_data_, a_, b_data_, b_, &beta_, d_data_, d_, d_data_, d_,
                &algorithm_, workspace_.data(), workspace_.size(), stream);
  if (status == kLtSuccess) return;
  throw Error(Status::kDriverError, fmt::format("cublasLtMatmul: {}", f_.status_name(status)));
}

class OpenedCublasLt final : public CublasLt {
 public:
  OpenedCublasLt(const runtime::Device& device, std::string path, const LtFunctions& functions,
                 LtHandle handle)
      : device_(device), path_(std::move(path)), f_(functions), handle_(handle) {}
  OpenedCublasLt(const OpenedCublasLt&) = delete;
  OpenedCublasLt& operator=(const OpenedCublasLt&) = delete;
  ~OpenedCublasLt() override {
    try {
      const runtime::ContextScope scope(device_.driver(), device_.context());
      f_.destroy(handle_);
    } catch (const Error&) {  // the context is gone, and the handle with it
    }
  }

  std::string version() const override {
    const std::size_t v = f_.version();
    return fmt::format("{}.{}.{}", v / 10000, v / 100 % 100, v % 100);
  }
  const std::string& path() const override { return path_; }

  LtOffer offer(const Workload& w, const kiln_operands& operands, LtScaling scaling) override {
    if (jit::is_grouped(w.problem))
      return {nullptr, "cuBLASLt has no FP8 product over groups that only the device knows"};
    if (w.m == 0 || w.k == 0) return {nullptr, "there is nothing to compute"};
    if (scaling == LtScaling::kBlockWise && f_.version() < kFirstWithBlocks)
      return {nullptr, fmt::format("block-wise scales need cuBLASLt 12.9, this is {}", version())};
    const auto product = std::make_shared<LtProduct>(device_, f_, handle_);
    try {
      const runtime::ContextScope scope(device_.driver(), device_.context());
      product->describe(w, operands, scaling);
      product->choose(w);
      trial(*product);
    } catch (const LtFailure& failure) {
      return {nullptr, failure.reason};
    }
    return {[product](CUstream stream) { product->launch(stream); }, ""};
  }

 private:
  // What loads its kernels on the first call must not do so inside a capture.
  void trial(const LtProduct& product) const {
    const runtime::Stream stream(device_);
    try {
      product.launch(stream.get());
    } catch (const Error& error) {
      throw LtFailure{error.what()};
    }
    stream.synchronize();
  }

  const runtime::Device& device_;
  std::string path_;
  LtFunctions f_;
  LtHandle handle_;
};

}  // namespace

std::string_view name(LtScaling value) {
  return value == LtScaling::kBlockWise ? "cublaslt_block" : "cublaslt_tensor";
}

std::unique_ptr<CublasLt> CublasLt::open(const runtime::Device& device, std::string& reason) {
  constexpr std::array<std::string_view, 3> kSonames = {"libcublasLt.so.13", "libcublasLt.so.12",
                                                        "libcublasLt.so"};
  constexpr std::array<std::string_view, 2> kPackages = {"cu13", "cublas"};
  const DynamicLibrary library(toolkit_candidates(kSonames, kPackages));
  if (!library) {
    reason = fmt::format("cuBLASLt {}: install the CUDA toolkit or the PyPI package nvidia-cublas",
                         library.message());
    return nullptr;
  }
  LtFunctions f;
  if (!bind_all(library, f)) {
    reason = fmt::format("{} lacks calls of cuBLASLt 12: update it", library.path());
    return nullptr;
  }
  const runtime::ContextScope scope(device.driver(), device.context());
  LtHandle handle = nullptr;
  if (const LtStatus status = f.create(&handle); status != kLtSuccess) {
    reason = fmt::format("cublasLtCreate of {}: {}", library.path(), f.status_name(status));
    return nullptr;
  }
  return std::make_unique<OpenedCublasLt>(device, library.path(), f, handle);
}

}  // namespace kiln::tools
