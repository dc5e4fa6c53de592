// What the opaque handles of kiln.h are, and the entry points with the outside world given, for the
// tests. Internal: the CLI and the tests link these, the shared library exports none of them.
#pragma once

#include <memory>

#include "runtime/engine.h"
#include "runtime/kiln.h"
#include "runtime/options.h"
#include "runtime/plan.h"
#include "runtime/quantizer.h"

// Plans and quantizers hold the engine too, so the order of destruction is the caller's choice.
struct kiln_engine {
  std::shared_ptr<kiln::runtime::Engine> engine;
};
struct kiln_plan {
  std::shared_ptr<kiln::runtime::Plan> plan;
};
struct kiln_quantizer {
  std::shared_ptr<kiln::runtime::Quantizer> quantizer;
};

namespace kiln::runtime {

// kiln_engine_create and kiln_probe, with stand-ins for driver and compiler and a given
// environment.
kiln_status create_engine(const kiln_engine_options* options, const Environment& environment,
                          const EngineHooks& hooks, kiln_engine** engine) noexcept;
kiln_status probe(const char* nvrtc_path, const Environment& environment, const EngineHooks& hooks,
                  kiln_probe_report* report) noexcept;

}  // namespace kiln::runtime
