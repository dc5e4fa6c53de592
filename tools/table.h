// Plain text tables: columns padded to their widest cell, numbers to the right.
#pragma once

#include <string>
#include <vector>

namespace kiln::tools {

enum class Align { kLeft, kRight };

struct Column {
  std::string title;
  Align align = Align::kLeft;
};

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // One cell per column.
  void add(std::vector<std::string> row);
  std::size_t rows() const { return rows_.size(); }

  // Header, then the rows in order; lines end in '\n' and carry no trailing blanks.
  std::string text() const;

  // For rows that are printed as they come: widths fixed beforehand by samples of the widest cells
  // (a wider cell only shifts its own line).
  std::string header(const std::vector<std::string>& widest) const;
  std::string line(const std::vector<std::string>& widest,
                   const std::vector<std::string>& row) const;

 private:
  std::vector<std::size_t> widths(const std::vector<std::vector<std::string>>& rows) const;
  std::string format_row(const std::vector<std::size_t>& widths,
                         const std::vector<std::string>& row) const;
  std::vector<std::string> titles() const;

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace kiln::tools
