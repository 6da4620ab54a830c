from x2sam.cli import app

app(prog_name="python -m x2sam")
