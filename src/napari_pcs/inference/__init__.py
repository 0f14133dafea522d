"""How a network is run over a hemisphere: which library, which precision, whole or in windows."""
