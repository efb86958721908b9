from tools.benchmarks import vectors as benchmark_vectors


def test_a_line_that_is_being_written_is_not_read_yet(tmp_path):
    log = tmp_path / "metrics.jsonl"
    assert benchmark_vectors._whole_lines(log) == []
    log.write_text('{"epoch": 1}\n{"epoch": ')
    assert benchmark_vectors._whole_lines(log) == ['{"epoch": 1}']
