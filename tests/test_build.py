def test_fresh_process_sees_only_torch_and_the_library(fresh_process):
    out = fresh_process(
        """
        try:
            import uqforce
        except ImportError:
            print("no uqforce", *sys.argv[1:])
        """,
        1,
        "two",
    )
    assert out == "no uqforce 1 two\n"
