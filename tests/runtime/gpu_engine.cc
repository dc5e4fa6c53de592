#include "tests/runtime/gpu_support.h"

namespace kiln::test {

kiln_engine* open_test_engine(std::string& reason) {
  kiln_probe_report report = KILN_PROBE_REPORT_INIT;
  kiln_engine_options options = KILN_ENGINE_OPTIONS_INIT;
  kiln_engine* engine = nullptr;
  if (kiln_probe(nullptr, &report) != KILN_OK || report.hopper_device < 0) {
    const char* why = report.has_driver ? report.device_message : report.driver_message;
    reason = std::string("no Hopper GPU: ") + why;
    return nullptr;
  }
  options.device = report.hopper_device;
  if (kiln_engine_create(&options, &engine) != KILN_OK) reason = kiln_last_error();
  return engine;
}

}  // namespace kiln::test
