// Quantizer: one kind of FP8 cast, one-way or two-way, and its launch. Keeps the engine alive.
// Thread-safe.
#pragma once

#include <atomic>
#include <memory>

#include "jit/source.h"
#include "runtime/engine.h"
#include "runtime/kiln.h"

namespace kiln::runtime {

class Quantizer {
 public:
  // Pure CPU. Throws Error{kInvalidArgument}.
  Quantizer(std::shared_ptr<Engine> engine, const jit::QuantizeSpec& spec);

  // As Plan::prepare.
  void prepare();

  // The contract of kiln_quantize. `operands` is complete: every byte of it is meant.
  void launch(const kiln_quantize_operands& operands, CUstream stream) const;

 private:
  void check(const kiln_quantize_operands& operands) const;
  void check_transposed(const kiln_quantize_operands& operands) const;
  // Scales of [rows] x [blocks] in memory as scale_major says.
  void check_scales(const char* name, const char* stride_name, const float* scales,
                    std::int64_t stride, std::int64_t rows, std::int64_t blocks) const;
  std::uint32_t num_ctas(const kiln_quantize_operands& operands) const;
  jit::KernelSpec kernel_spec() const { return {spec_, engine_->arch()}; }

  std::shared_ptr<Engine> engine_;
  jit::QuantizeSpec spec_;
  mutable std::atomic<const LoadedKernel*> kernel_{nullptr};  // the engine owns it
};

}  // namespace kiln::runtime
