// The strict reading of JSON files under the CLI's own names: see runtime/strict_json.h.
#pragma once

#include "runtime/strict_json.h"

namespace kiln::tools {

using runtime::JsonLimits;
using runtime::JsonView;
using runtime::parse_json;
using runtime::read_file;

}  // namespace kiln::tools
