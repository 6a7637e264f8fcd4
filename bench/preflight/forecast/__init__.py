"""What an experiment would take on a card that is named, for a model that need not be here: shapes alone are computed.

Parts, memory and FLOPs come from the harness's own code on tensors without values; what a method spends comes from the
method's own code in the harness's own environment, around a model of one weight that is charged as the real one.
"""
