"""Clustering of faces by a graph network: which links of a nearest-neighbour graph are between pictures of one person?"""
