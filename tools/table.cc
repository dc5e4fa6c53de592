#include "tools/table.h"

#include <algorithm>
#include <cassert>

namespace kiln::tools {

void Table::add(std::vector<std::string> row) {
  assert(row.size() == columns_.size());
  rows_.push_back(std::move(row));
}

std::vector<std::string> Table::titles() const {
  std::vector<std::string> titles;
  for (const Column& column : columns_) titles.push_back(column.title);
  return titles;
}

std::vector<std::size_t> Table::widths(const std::vector<std::vector<std::string>>& rows) const {
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) widths.push_back(column.title.size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  return widths;
}

std::string Table::format_row(const std::vector<std::size_t>& widths,
                              const std::vector<std::string>& row) const {
  std::string out;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const std::size_t padding = widths[i] > row[i].size() ? widths[i] - row[i].size() : 0;
    if (i > 0) out += "  ";
    if (columns_[i].align == Align::kRight) out.append(padding, ' ');
    out += row[i];
    if (columns_[i].align == Align::kLeft) out.append(padding, ' ');
  }
  out.erase(out.find_last_not_of(' ') + 1);
  return out + '\n';
}

std::string Table::text() const {
  const std::vector<std::size_t> columns = widths(rows_);
  std::string out = format_row(columns, titles());
  for (const auto& row : rows_) out += format_row(columns, row);
  return out;
}

std::string Table::header(const std::vector<std::string>& widest) const {
  return format_row(widths({widest}), titles());
}

std::string Table::line(const std::vector<std::string>& widest,
                        const std::vector<std::string>& row) const {
  return format_row(widths({widest}), row);
}

}  // namespace kiln::tools
