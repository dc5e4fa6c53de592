#include "tests/sim/sim_support.h"

namespace kiln::test {

kiln_engine* open_simulated_engine(sim::TemplateOverrides overrides, std::int32_t num_sms) {
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  options.device = 0;
  options.num_sms = num_sms;
  options.log_level = KILN_LOG_OFF;
  options.cache_dir = KILN_SIM_CACHE;
  options.cache_path = "";
  kiln_engine* engine = nullptr;
  const runtime::EngineHooks hooks = sim::simulator_hooks(std::move(overrides));
  if (runtime::create_engine(&options, {}, hooks, &engine) != KILN_OK)
    throw Error(Status::kNoDevice, kiln_last_error());
  return engine;
}

}  // namespace kiln::test
